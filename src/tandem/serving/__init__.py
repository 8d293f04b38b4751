"""The endpoint: retrieval, prompt and citations around Ray Serve LLM, in OpenAI's protocol."""
