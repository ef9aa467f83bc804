"""`collect`: rationales for our questions from a large model behind an OpenAI-compatible endpoint.

settings.py   the options
prompt.py     the few-shot prompt, from a file the user edits
request.py    a question's request, and what the endpoint's reply must look like
client.py     one request, and which failures are worth another try
journal.py    every paid answer, on disk before it is used
budget.py     what is spent, and what is reserved for requests under way
collector.py  all questions, several at a time, until they are answered, a signal comes or the budget is spent
results.py    the files of training data, or of a test
collect.py    all of it in order
"""
