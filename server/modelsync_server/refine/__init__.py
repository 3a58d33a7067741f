"""Makes an update that is encoded already smaller by what only newer versions of the format hold: frames that begin and
end at any byte, stored bytes, runs of records. It imports `encode`, and never chooses a base or lays out an object.
"""
