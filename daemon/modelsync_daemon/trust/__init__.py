"""Which versions of a model may be believed: TUF metadata, its refresh, and the process in which that is done.

May import disk. It never fetches by itself (whoever asks brings the way to the origin) and never looks at a model's
bytes.
"""
