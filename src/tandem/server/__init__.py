"""The Tandem server: job records and the control loop, beside the Ray head and outliving it."""
