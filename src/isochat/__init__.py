"""One function, `query_chat()`, in front of every client that reaches a chat model on Databricks Model Serving."""
