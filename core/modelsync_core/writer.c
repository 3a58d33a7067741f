/* What only a publisher does: elements to symbols and raw bits (modelsync_server/tensors/symbol_writer.py), fields of bits
 * (rans_writer.py), cuts by content (modelsync_protocol/chunker.py). */
#include "core.h"

INLINE unsigned bit_length(uint64_t value) { return value ? 64 - (unsigned)__builtin_clzll(value) : 0; }

enum { SIGNED_LENGTHS = 4 };

INLINE void letters(numeral kind, const uint8_t *first, const uint8_t *top, const uint8_t *new, const uint8_t *old,
                    uint64_t count, uint8_t *symbols, uint64_t *fields, unsigned width) {
  const unsigned sign = 8 * width - 1;
  const uint64_t all = width == 8 ? ~0ull : (1ull << (8 * width)) - 1;
  for (uint64_t index = 0; index < count; index++) {
    const uint64_t guess = old ? load(old + index * width, width) : 0;
    const uint64_t delta =
        (shortened(load(new + index * width, width), width, kind) - shortened(guess, width, kind)) & all;
    unsigned minus = (unsigned)(delta >> sign) & 1;
    const uint64_t size = minus ? (0 - delta) & all : delta;
    if (kind.mantissa && old) minus ^= (unsigned)(guess >> sign) & 1;
    const unsigned length = bit_length(size), held = top[length];
    const unsigned below = length > 1 + held ? length - 1 - held : 0;
    unsigned symbol = first[length] + ((unsigned)(size >> below) & ((1u << held) - 1));
    uint64_t field = size & ((1ull << below) - 1);
    if (length > SIGNED_LENGTHS) field = field << 1 | minus;
    else if (length) symbol += minus << held;
    symbols[index] = (uint8_t)symbol;
    fields[index] = field;
  }
}

/* Symbols and raw bits of `count` elements `new` against `old` (NULL: zero); `first` and `top`: 65 entries (symbols.DELTA). */
EXPORT int modelsync_core_letters(const numeral *kind, const uint8_t *first, const uint8_t *top, const uint8_t *new,
                                  const uint8_t *old, uint64_t count, uint8_t *symbols, uint64_t *fields) {
  switch (kind->width) {
    case 1: letters(*kind, first, top, new, old, count, symbols, fields, 1); return OK;
    case 2: letters(*kind, first, top, new, old, count, symbols, fields, 2); return OK;
    case 4: letters(*kind, first, top, new, old, count, symbols, fields, 4); return OK;
    case 8: letters(*kind, first, top, new, old, count, symbols, fields, 8); return OK;
  }
  return DOES_NOT_END;
}

/* Pack fields of `counts` bits each (0 to 64), lowest first, into `out`, which is zero and has 16 bytes to spare. */
EXPORT uint64_t modelsync_core_pack(const uint64_t *fields, const uint8_t *counts, uint64_t count, uint8_t *out) {
  uint64_t position = 0;
  for (uint64_t index = 0; index < count; index++) {
    const unsigned size = counts[index];
    if (size == 0) continue;
    const uint64_t field = size == 64 ? fields[index] : fields[index] & ((1ull << size) - 1);
    uint8_t *place = out + (position >> 3);
    const unsigned shift = position & 7;
    store(place, load(place, 8) | field << shift, 8);
    if (shift + size > 64) place[8] |= (uint8_t)(field >> (64 - shift));
    position += size;
  }
  return position;
}

/* Places in `data` after which the gear hash of the last 32 bytes is under `threshold`, written to `cuts` (room for
 * `length`); `hash` goes on from block to block. Returns how many. */
EXPORT size_t modelsync_core_gear(const uint32_t *gear, const uint8_t *data, size_t length, uint32_t threshold, uint32_t *hash,
                                  uint32_t *cuts) {
  uint32_t now = *hash;
  size_t found = 0;
  for (size_t index = 0; index < length; index++) {
    now = (now << 1) + gear[data[index]];
    if (now < threshold) cuts[found++] = (uint32_t)index;
  }
  *hash = now;
  return found;
}
