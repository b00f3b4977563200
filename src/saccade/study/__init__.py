"""Many runs, one answer: plan them, run them, judge them, report them."""
