"""The report: its page, its tables and pictures, and two reports side by side."""
