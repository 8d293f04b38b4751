"""What `task: classification` adds: labels, a head, figures with intervals, a report."""
