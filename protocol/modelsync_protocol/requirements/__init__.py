"""What a version needs of the device that runs it, in the field's terms, and whether a device has it. No I/O here.

It knows keys, their spelling in signed metadata (FORMAT.md §12.5), and what runtimes' releases can read; it may import
the ground only. It never guesses: what nobody can tell is `unknown`, neither met nor missing.
"""

from __future__ import annotations

from modelsync_protocol.requirements.judging import Judgement, judge
from modelsync_protocol.requirements.terms import decode, encode, from_words, of_version, spell_versions, told

__all__ = ["Judgement", "decode", "encode", "from_words", "judge", "of_version", "spell_versions", "told"]
