"""Which strategy wins on these questions, and may one believe it: metrics, statistics, the compare job, its report."""
