"""What a Ray job runs inside the cluster."""
