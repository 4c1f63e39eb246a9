"""Lines of the bar table."""

import statistics


class Row:
    """One line of the table. `bar` is a number, or None for what is only told."""

    def __init__(self, what, values, bar, unit, lower_is_better=False, note=""):
        self.what = what
        self.values = values
        self.bar = bar
        self.unit = unit
        self.lower_is_better = lower_is_better
        self.note = note

    def median(self):
        return statistics.median(self.values)

    def met(self):
        if self.bar is None:
            return True
        if self.lower_is_better:
            return self.median() <= self.bar
        return self.median() >= self.bar

    def as_dict(self):
        return {"what": self.what, "median": self.median(), "low": min(self.values),
                "high": max(self.values), "runs": len(self.values), "bar": self.bar,
                "unit": self.unit, "lower_is_better": self.lower_is_better, "met": self.met(),
                "note": self.note}


def number(value, unit):
    if unit == "IOPS":
        return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.1f} k"
    if unit in ("ratio", "us", "%"):
        return f"{value:.2f}"
    if unit in ("ns", "KiB"):
        return f"{value:,.1f}"
    return f"{value:,.0f}"


def table(rows):
    lines = ["| what | measured (lowest..highest) | bar | |", "|---|---|---|---|"]
    for row in rows:
        at = "at most" if row.lower_is_better else "at least"
        bar = "" if row.bar is None else f"{at} {number(row.bar, row.unit)}"
        spread = (f" ({number(min(row.values), row.unit)}..{number(max(row.values), row.unit)})"
                  if len(row.values) > 1 else "")
        verdict = "" if row.bar is None else "met" if row.met() else "**not met**"
        remarks = "; ".join(part for part in (verdict, row.note) if part)
        lines.append(f"| {row.what} | {number(row.median(), row.unit)}{spread} {row.unit} | {bar} "
                     f"| {remarks} |")
    return "\n".join(lines)
