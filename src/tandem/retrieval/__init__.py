"""The vector store, and the way from documents into it and from questions to passages."""
