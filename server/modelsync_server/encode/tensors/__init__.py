"""What the publisher alone needs of the tensor encodings: pairing, fitting, tables, writing. No I/O here."""
