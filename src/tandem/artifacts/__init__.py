"""What jobs make and use: URIs, manifests that are written last, and a job's own folder."""
