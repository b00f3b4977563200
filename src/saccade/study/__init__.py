"""Plan, run, judge and report comparisons over many training runs."""
