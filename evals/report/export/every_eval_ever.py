"""Every Eval Ever (EvalEval, arXiv 2606.14516), schema 0.3.0: one aggregate file and one of samples for each model.

The files lie as in the project's own repository: data/BENCHMARK/DEVELOPER/MODEL/UUID.json, with UUID_samples.jsonl
beside it. Left out of the samples are those without an answer and score of their own: failed ones, and the windows of
perplexity, which count in the aggregate. Of a prompt the first and last tokens are given, as a run records no more.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from evals.records.disk import replace_file
from evals.records.json import Json, dumps
from evals.records.models import SampleRecord
from evals.report.data import Data
from evals.report.export.cells import LIBRARY, base_name, cell_name, path_name, scored
from evals.report.stats.interval import LEVEL
from evals.report.summary import COST

SCHEMA_VERSION = "0.3.0"
BENCHMARK = "sharedllm"
CUT = "\n[...]\n"
"""Between the recorded beginning and end of a prompt."""


def write(data: Data, folder: Path) -> list[Path]:
    """Write the files of every model of a run; returns them."""
    now, written = str(time.time()), []
    for model, rows in scored(data):
        base = base_name(data, model)
        developer = path_name(base.partition("/")[0]) if "/" in base else "unknown"
        place = Path("data", BENCHMARK, developer, path_name(model))
        name = _uuid(data.run.meta.key, model)
        evaluation = f"{BENCHMARK}/{model}/{now}"
        lines = [dumps(line) for row in rows for line in _samples(data, row, evaluation, base)]
        samples, aggregate = place / f"{name}_samples.jsonl", place / f"{name}.json"
        content = "".join(f"{line}\n" for line in lines).encode()
        whole = _aggregate(data, model, base, rows, evaluation, now)
        if lines:
            whole["detailed_evaluation_results"] = {
                "format": "jsonl",
                "file_path": samples.as_posix(),
                "hash_algorithm": "sha256",
                "checksum": hashlib.sha256(content).hexdigest(),
                "total_rows": len(lines),
            }
        (folder / place).mkdir(parents=True, exist_ok=True)
        files = {aggregate: dumps(whole, indent=1).encode(), **({samples: content} if lines else {})}
        for path, text in files.items():
            replace_file(folder / path, text)
            written.append(folder / path)
    return written


def _uuid(key: str, model: str) -> str:
    """The same for every export of a model of a run, in the form of a version 4."""
    return str(uuid.UUID(bytes=hashlib.sha256(f"{key}\0{model}".encode()).digest()[:16], version=4))


def _aggregate(data: Data, model: str, base: str, rows: Sequence[Json], evaluation: str, now: str) -> Json:
    created = str(datetime.fromisoformat(data.run.meta.created).timestamp())
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": evaluation,
        "evaluation_timestamp": created,
        "retrieved_timestamp": now,
        "source_metadata": {
            "source_name": "sharedllm-eval",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
        },
        "eval_library": LIBRARY,
        "model_info": _model(data, model, base),
        "evaluation_results": [_result(data, row) for row in rows],
    }


def _model(data: Data, model: str, base: str) -> Json:
    run = data.run
    served = run.method(model) == "served"
    settings = run.models[model].settings if model in run.models else {}
    details = {"method": run.method(model), **settings, **run.fairness(model)}
    return {
        "name": model,
        "id": base,
        "additional_details": {
            **_texts(details),
            "deployment_type": "unknown" if served else "self_deployed",
            "model_availability": "unknown" if served else "open_weights",
        },
    }


def _result(data: Data, row: Json) -> Json:
    metric, n = row["metric"], row["n"]
    low, high = row["intervals"].get(metric, (None, None))
    interval = {"lower": low, "upper": high, "confidence_level": 1 - LEVEL, "method": "over contexts or documents"}
    known = low is not None and high is not None
    details = {name: row[name] for name in COST if name in row}
    others = {name: value for name, value in row["metrics"].items() if name != metric}
    return {
        "evaluation_result_id": row["cell"],
        "evaluation_name": cell_name(row),
        "source_data": {"dataset_name": row["task"], "source_type": "other"},
        "metric_config": {
            "metric_id": metric,
            "metric_name": metric,
            "lower_is_better": not row["higher_is_better"],
            "score_type": "continuous",
            "min_score": None,  # not provided: a metric does not say its range
            "max_score": None,
        },
        "score_details": {
            "score": row["metrics"][metric],
            "details": _texts({"status": row["status"], "length_tokens": row["length"], **details, **others}),
            "uncertainty": {"num_samples": n, **({"confidence_interval": interval} if known else {})},
        },
        "generation_config": {
            "generation_args": {"temperature": 0.0},
            "additional_details": _texts(data.run.cells[row["cell"]].settings),
        },
    }


def _samples(data: Data, row: Json, evaluation: str, base: str) -> Iterator[Json]:
    for sample in data.run.scored(row["cell"]):
        score = sample.metrics.get(row["metric"])
        if score is None:
            continue
        text, read, answered = sample.output.text, sample.seconds.get("read"), sample.seconds.get("answer")
        tokens = int(sample.audit.get("tokens", 0))
        yield {
            "schema_version": SCHEMA_VERSION,
            "evaluation_id": evaluation,
            "model_id": base,
            "evaluation_name": cell_name(row),
            "evaluation_result_id": row["cell"],
            "sample_id": sample.sample,
            "interaction_type": "single_turn",
            "input": {"raw": sample.prompt.head + CUT + sample.prompt.tail, "reference": _references(sample)},
            "output": {"raw": [text]},
            "answer_attribution": [
                {
                    "turn_idx": 0,
                    "source": "output.raw",
                    "extracted_value": text,
                    "extraction_method": "custom",
                    "is_terminal": True,
                }
            ],
            "evaluation": {"score": score, "is_correct": score >= 1 if row["higher_is_better"] else False},
            "token_usage": {
                "input_tokens": tokens,
                "output_tokens": sample.output.tokens,
                "total_tokens": tokens + sample.output.tokens,
            },
            "performance": {
                "latency_ms": None if read is None or answered is None else 1000 * (read + answered),
                "generation_time_ms": None if answered is None else 1000 * answered,
            },
            "metadata": _texts(sample.meta),
        }


def _references(sample: SampleRecord) -> list[str]:
    reference = sample.reference
    listed = reference if isinstance(reference, list) else [] if reference is None else [reference]
    return [item if isinstance(item, str) else dumps(item) for item in listed]


def _texts(values: Json) -> dict[str, str]:
    """Values as the schema wants details: texts. What has no value is left out."""
    return {k: v if isinstance(v, str) else dumps(v) for k, v in values.items() if v is not None}
