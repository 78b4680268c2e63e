"""What would keep a run from ending well, found before a weight is read. Each check raises UserError."""
