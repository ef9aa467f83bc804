"""`collect`: rationales for our questions from a large model behind an OpenAI-compatible endpoint.

settings.py   what a config may say
prompt.py     the few-shot prompt, from a file the user edits
request.py    what is asked for one question
reply.py      what an endpoint's answer must look like
client.py     one request, and which failures are worth another try
journal.py    every paid answer, on disk before it is used
budget.py     what is spent and what is promised
stop.py       signals, and sleeping until one comes
collector.py  all questions, several at a time
training.py   what comes out for training: D_pos and D_neg, by `prepare`
evaluation.py what comes out for a test set: predictions.jsonl and metrics.json
verb.py       the command line
"""
