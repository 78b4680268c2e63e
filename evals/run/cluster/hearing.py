"""What workers tell: first it is written down in the run, then people are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evals.records.lines import AnyRecord
from evals.records.models import CellState
from evals.records.store import RunStore
from evals.run.answering import Spent
from evals.run.begun import Begun
from evals.run.cluster.connect import Cluster
from evals.run.cluster.hand import Hand, Told
from evals.run.cluster.messages import Appended, Began, Ended, Finished, Forgot, Logged, Message, Saved, Stepped
from evals.run.grid import Cell
from evals.run.progress import Progress


class Hearing:
    """Takes to the run folder and to people what workers tell. cells: those that they work on, by id."""

    def __init__(self, store: RunStore, progress: Progress, spent: Spent, begun: Begun, cluster: Cluster) -> None:
        self.store = store
        self.progress = progress
        self.spent = spent
        self.begun = begun
        self.cluster = cluster
        self.states = store.meta.cells
        self.cells: Mapping[str, Cell] = {}

    def write_down(self, told: Sequence[Told]) -> None:
        """Bring to disk what workers have told: the records with one write, then the states of their cells."""
        records: list[AnyRecord] = []
        changed: dict[str, None] = {}
        models_before = dict(self.store.meta.models)
        for hand, messages in told:
            for message in messages:
                match message:
                    case Appended():
                        records += message.records
                    case Forgot(cells):
                        self._write(records)
                        self.store.forget(set(cells))
                    case Saved(states, models):
                        for cell, state in states.items():
                            self._note(cell, self._placed(hand, state))
                        self.store.meta.models.update(models)
                        changed |= dict.fromkeys(states)
                    case Finished(cell, state):
                        self._note(cell, self._placed(hand, state))
                        changed[cell] = None
                    case Ended() if hand.job:
                        self.begun.survived(hand.job.cells)
                        changed |= dict.fromkeys(cell.id for cell in hand.job.cells)
        self._write(records)
        if self.store.meta.models != models_before:  # the journal holds cells alone
            self.store.save()
        elif changed:
            self.store.save_cells(*changed)
        self.store.settle()

    def report(self, hand: Hand, messages: Sequence[Message]) -> None:
        """Tell people what a worker did. It is on the disk."""
        for message in messages:
            match message:
                case Stepped(cell):
                    self.progress.step(self.cells[cell])
                case Began(cell, steps):
                    self.progress.begin(self.cells[cell], steps, place=hand.name)
                case Finished(cell):
                    hand.settled.add(cell)
                    self.progress.finish(self.cells[cell], self.states[cell])
                case Logged(text):
                    self.progress.log(text)
                case Ended():
                    self._end(hand, message)

    def fail(self, cells: Sequence[Cell], reason: str) -> None:
        """Cells that no worker gets any more."""
        for cell in cells:
            self._note(cell.id, self.states[cell.id].model_copy(update={"status": "failed", "error": reason}))
        self.store.save_cells(*(cell.id for cell in cells))
        for cell in cells:
            self.progress.finish(cell, self.states[cell.id])

    def _write(self, records: list[AnyRecord]) -> None:
        if records:
            self.store.append(*records)
            records.clear()

    def _placed(self, hand: Hand, state: CellState) -> CellState:
        """A fault with the machine that it happened on, where there are several."""
        if state.status != "failed" or not state.error or not hand.place or self.cluster.hosts() < 2:
            return state
        return state.model_copy(update={"error": f"On {hand.place.host}: {state.error}"})

    def _note(self, cell: str, state: CellState) -> None:
        """What a worker says about a cell; how often it was begun is what the driver knows."""
        mine = self.states[cell]
        self.states[cell] = state.model_copy(update={"begun": mine.begun, "begun_records": mine.begun_records})

    def _end(self, hand: Hand, ended: Ended) -> None:
        self.spent.load_s += ended.load_s
        self.spent.model_s += ended.model_s
        hand.job = None
        if ended.error is not None:
            raise ended.error
