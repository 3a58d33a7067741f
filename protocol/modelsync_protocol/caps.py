"""All caps, each with its unit (DESIGN §10). A parser checks them before it allocates."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

MAX_VERSION = 2**52 - 1
"""Highest model version (integers in twins stay below 2^52)."""

MAX_PATH_BYTES = 1024
"""A path inside an artifact, UTF-8 bytes."""

MAX_FILES = 100_000
"""Entries of one artifact (files, links, empty directories)."""

MAX_MANIFEST_BYTES = 16 * MIB
"""Canonical JSON of a manifest, bytes."""

MAX_MANIFEST_OBJECT_BYTES = 24 * MIB
"""A manifests/ object: compressed manifest and index, bytes."""

MAX_ARTIFACT_BYTES = 64 * 1024 * MIB
"""All regular files of one artifact together, bytes."""

TENSOR_CHUNK_BYTES = 256 * KIB
"""A chunk inside a tensor: the longest cut, bytes. Also the longest chunk of any kind."""

CDC_MIN_BYTES = 4 * KIB
CDC_AVERAGE_BYTES = 16 * KIB
CDC_MAX_BYTES = 64 * KIB
"""Content-defined chunks of opaque bytes: shortest, average, longest."""

CDC_COARSE = 8
"""So many times larger they are where an artifact's manifest would be too large else; none is over 256 KiB."""

MAX_CHUNKS = 1_000_000
"""Chunks of one artifact."""

MAX_FRAME_BYTES = 4 * MIB
"""A frame, decoded, bytes."""

MAX_PAYLOAD_BYTES = 256 * KIB + KIB
"""A frame, encoded, bytes: 256 KiB, and what zstd adds at most to a chunk that does not compress."""

MAX_PREFIX_BYTES = 4 * MIB
"""Earlier bytes of the same target that a frame may lean on, bytes."""

MAX_BASE_BYTES = 8 * MIB
"""Base range that a frame may lean on, bytes; base range + prefix + frame stay within MAX_LEAN_BYTES."""

MAX_LEAN_BYTES = 12 * MIB
"""Base range, prefix and decoded frame together, bytes: bounds the decoder's memory."""

MAX_OPS = 1_000_000
"""Operations (copies and frames) of one update or index."""

MAX_UPDATE_HEADER_BYTES = 24 * MIB
"""An update's header, decoded, bytes."""

MAX_PACK_BYTES = 64 * MIB
"""A pack, bytes."""

MAX_PUSH_BYTES = 96 * KIB
"""A pushed update: the direct method's payload, base85 in JSON (IoT Hub takes 128 KiB)."""

MAX_BUNDLE_BYTES = 1 * MIB
"""A trust bundle, decompressed, bytes; also a parcel."""

MAX_ENCLOSED_BYTES = 16 * KIB
"""What a publisher puts into a parcel beside the bundle, bytes: what a device risks to fetch in vain."""

MAX_PROBE_BYTES = 8 * MIB
"""A probe file, bytes."""

MAX_TWIN_BYTES = 32 * KIB
"""Desired or reported properties, bytes (IoT Hub's limit)."""

MAX_TWIN_INTEGER = 2**52 - 1
"""Highest integer that IoT Hub keeps exactly."""

MAX_TENSORS = 100_000
"""Tensors of one model file; a file with more is opaque."""

MAX_TABLES_BYTES = 4 * MIB
"""Tables in an object's header, bytes."""

MAX_MEMBERS = 32_768
"""Compressed members of one plain view."""

MAX_SHUFFLED_BYTES = 4 * MIB
"""A member whose bytes are shuffled, plain, bytes: it is held in memory whole."""

MAX_RELEASE_RECORD_BYTES = 64 * KIB
"""A release record (what a publisher says about a version), bytes. Devices fetch none."""

MAX_MEDIA_INDEX_BYTES = 1 * MIB
"""The index of an offline medium, bytes."""

MAX_MEDIA_OBJECTS = 65_536
"""Entries of an export in one file."""

MAX_REPORT_BYTES = 64 * KIB
"""A report that is carried by hand, bytes: a twin's half in base64, with room around it."""

MAX_REQUIREMENTS = 32
"""Requirements of one version."""

MAX_REQUIREMENTS_BYTES = 1024
"""One version's requirements as they are spelled, bytes."""

MAX_ROLE_REQUIREMENTS_BYTES = 64 * KIB
"""A role's field of requirements, of all its versions, bytes."""
