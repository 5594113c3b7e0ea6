"""The HTTP server: OpenAI's images API before one session that draws what waits together in batches."""
