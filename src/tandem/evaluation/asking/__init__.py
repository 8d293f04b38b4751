"""What each arm is asked about questions and documents, and how its answers are had: batched, resumable, in time."""
