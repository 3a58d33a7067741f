"""Plain views: streams whose compressed members are replaced by their plain bytes, and the way back. No I/O here."""
