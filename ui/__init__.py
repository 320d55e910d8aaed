"""The pages, in Gradio. They draw what the store says and call what it offers; rules live below."""

#: Kept with each judgment: which page it was given on. Raise it when what a rater sees or can say changes.
INTERFACE_VERSION = "rate-1"
