"""The report: one self-contained HTML page from run directories alone. No torch."""
