/* What a publisher does with every element: to symbols and raw bits (modelsync_server/tensors/symbol_writer.py), counting
 * them, what they cost, and rANS over rows of tables (rans_writer.py). Raw bits are written as they come: no array of fields. */
#include "core.h"

/* Bits, lowest first; `fill` < 8 of them are held, and lie at `place` too. 16 bytes behind the last must be writable. */
typedef struct {
  uint8_t *place;
  uint64_t held;
  unsigned fill;
} sink;

INLINE sink sink_at(uint8_t *out, uint64_t position) {
  sink made = {out + (position >> 3), 0, position & 7};
  if (made.fill) made.held = *made.place & ((1u << made.fill) - 1);
  return made;
}

/* `size` ≤ 56 */
INLINE void put(sink *to, uint64_t field, unsigned size) {
  to->held |= field << to->fill;
  store(to->place, to->held, 8);
  to->fill += size;
  to->place += to->fill >> 3;
  to->held >>= to->fill & ~7u;
  to->fill &= 7;
}

INLINE void put_wide(sink *to, uint64_t field, unsigned size, unsigned width) {
  if (width < 8) {
    put(to, field, size);
  } else {
    put(to, field & 0xffffffff, size < 32 ? size : 32);
    put(to, field >> 32, size < 32 ? 0 : size - 32);
  }
}

/* Of a bit length: its first symbol, raw bits of the magnitude, modelled bits and their mask, and where the sign is. */
typedef struct {
  uint8_t first, below, held, mask, sign_in_symbol, sign_raw;
} rule;

enum { SIGNED_LENGTHS = 4 };

INLINE void deltas_to(numeral kind, const rule *restrict rules, const uint8_t *restrict new, const uint8_t *restrict guess,
                      uint64_t count, uint8_t *restrict symbols, sink *into, unsigned width) {
  sink out = into ? *into : (sink){NULL, 0, 0}, *to = into ? &out : NULL; /* its own, so that it stays in registers */
  const unsigned sign = 8 * width - 1;
  const uint64_t all = width == 8 ? ~0ull : (1ull << (8 * width)) - 1;
  for (uint64_t index = 0; index < count; index++) {
    const uint64_t old = guess ? load(guess + index * width, width) : 0;
    const uint64_t delta = (shortened(load(new + index * width, width), width, kind) - shortened(old, width, kind)) & all;
    uint64_t minus = delta >> sign & 1;
    const uint64_t size = ((delta ^ (0 - minus)) + minus) & all;
    if (kind.mantissa && guess) minus ^= old >> sign & 1;
    const rule *r = rules + (width < 8 ? 63 - __builtin_clzll(size << 1 | 1) : size ? 64 - __builtin_clzll(size) : 0);
    symbols[index] = (uint8_t)(r->first + ((size >> r->below) & r->mask) + ((minus & r->sign_in_symbol) << r->held));
    if (to) {
      const uint64_t field = (size & ((1ull << r->below) - 1)) << r->sign_raw | (minus & r->sign_raw);
      put_wide(to, field, r->below + r->sign_raw, width);
    }
  }
  if (into) *into = out;
}

INLINE int deltas_of(numeral k, const rule *rules, const uint8_t *new, const uint8_t *guess, uint64_t count,
                     uint8_t *symbols, sink *to) {
#define CASE(w, m) \
  if (k.width == w && k.mantissa == m && k.drop == 0 && guess && to) \
    return deltas_to((numeral){w, m, 1, 0}, rules, new, guess, count, symbols, to, w), OK; \
  if (k.width == w && k.mantissa == m && k.drop == 0 && guess) \
    return deltas_to((numeral){w, m, 1, 0}, rules, new, guess, count, symbols, NULL, w), OK;
  CASE(2, 10) CASE(2, 7) CASE(4, 23) CASE(1, 0)
#undef CASE
  switch (k.width) {
    case 1: return deltas_to(k, rules, new, guess, count, symbols, to, 1), OK;
    case 2: return deltas_to(k, rules, new, guess, count, symbols, to, 2), OK;
    case 4: return deltas_to(k, rules, new, guess, count, symbols, to, 4), OK;
    case 8: return deltas_to(k, rules, new, guess, count, symbols, to, 8), OK;
  }
  return DOES_NOT_END;
}

enum { VALUE_ZERO = 0, VALUE_ESCAPE = 255, VALUE_TOP_BITS = 3 };

INLINE void values_to(const segment *s, const uint8_t *restrict new, uint8_t *restrict symbols, sink *into, unsigned width) {
  sink out = into ? *into : (sink){NULL, 0, 0}, *to = into ? &out : NULL;
  const unsigned top = 8 * width, below = s->kind.mantissa - VALUE_TOP_BITS, drop = s->kind.drop;
  const uint64_t magnitudes = (1ull << (top - 1)) - 1, low = (1ull << below) - 1;
  uint64_t index = 0, row = 0, across = 0, left = s->columns - s->column;
  while (index < s->count) { /* a run: one row's elements, of which columns go up by one */
    uint64_t run = s->count - index < left ? s->count - index : left;
    if (s->columns - across < run) run = s->columns - across;
    const int32_t level = s->level + (s->rows ? s->rows[row] : 0);
    const uint8_t *offsets = s->offsets ? s->offsets + across : NULL;
    for (uint64_t i = 0; i < run; i++) {
      const uint64_t bits = load(new + (index + i) * width, width), size = bits & magnitudes, sign = bits >> (top - 1);
      const int32_t distance = (level + (offsets ? offsets[i] : 0)) * 4 - (int32_t)(size >> below);
      if (size != 0 && (uint32_t)distance < VALUE_ESCAPE - 1) {
        symbols[index + i] = (uint8_t)(distance + 1);
        if (to) put_wide(to, (size & low) >> drop << 1 | sign, 1 + below - drop, width);
      } else {
        symbols[index + i] = size == 0 ? VALUE_ZERO : VALUE_ESCAPE;
        if (to) put_wide(to, size == 0 ? sign : bits, size == 0 ? 1 : top, width);
      }
    }
    index += run, across += run, left -= run;
    if (left == 0) row++, left = s->columns;
    if (across == s->columns) across = 0;
  }
  if (into) *into = out;
}

INLINE int values_of(const segment *s, const uint8_t *new, uint8_t *symbols, sink *to) {
  switch (s->kind.width) {
    case 2: return to ? values_to(s, new, symbols, to, 2) : values_to(s, new, symbols, NULL, 2), OK;
    case 4: return to ? values_to(s, new, symbols, to, 4) : values_to(s, new, symbols, NULL, 4), OK;
    case 8: return values_to(s, new, symbols, to, 8), OK;
  }
  return DOES_NOT_END;
}

#ifdef AVX2
AVX2 static int deltas_avx2(numeral k, const rule *rules, const uint8_t *new, const uint8_t *guess, uint64_t count,
                            uint8_t *symbols, sink *to) {
  return deltas_of(k, rules, new, guess, count, symbols, to);
}
AVX2 static int values_avx2(const segment *s, const uint8_t *new, uint8_t *symbols, sink *to) {
  return values_of(s, new, symbols, to);
}
#endif

/* Symbols of `count` elements `new` against `guess` (NULL: zero) in Mode.DELTA; `first` and `top`: 65 entries
 * (symbols.DELTA). Raw bits go to `out` from bit `*position` on, which then is their end (NULL: nowhere). There must be room
 * for `width` bytes an element and 16 more. */
EXPORT int modelsync_core_delta_symbols(const numeral *kind, const uint8_t *first, const uint8_t *top, const uint8_t *new,
                                        const uint8_t *guess, uint64_t count, uint8_t *symbols, uint8_t *out,
                                        uint64_t *position) {
  rule rules[65];
  if (kind->drop >= 8 * kind->width) return DOES_NOT_END;
  for (unsigned length = 0; length <= 64; length++) {
    const unsigned held = top[length], below = length > 1 + held ? length - 1 - held : 0;
    rules[length] = (rule){first[length], (uint8_t)below, (uint8_t)held, (uint8_t)((1u << held) - 1),
                           length >= 1 && length <= SIGNED_LENGTHS, length > SIGNED_LENGTHS};
  }
  sink to = out ? sink_at(out, *position) : (sink){NULL, 0, 0};
  const uint8_t *before = to.place;
  const unsigned filled = to.fill;
  int result;
#ifdef AVX2
  if (HAS_AVX2) result = deltas_avx2(*kind, rules, new, guess, count, symbols, out ? &to : NULL);
  else
#endif
    result = deltas_of(*kind, rules, new, guess, count, symbols, out ? &to : NULL);
  if (out) *position += 8 * (uint64_t)(to.place - before) + to.fill - filled;
  return result;
}

/* The same of floats without a counterpart (Mode.VALUE): `s->count` of them. */
EXPORT int modelsync_core_value_symbols(const segment *s, const uint8_t *new, uint8_t *symbols, uint8_t *out,
                                        uint64_t *position) {
  if (s->kind.mantissa < VALUE_TOP_BITS || s->kind.drop > s->kind.mantissa - VALUE_TOP_BITS) return DOES_NOT_END;
  sink to = out ? sink_at(out, *position) : (sink){NULL, 0, 0};
  const uint8_t *before = to.place;
  const unsigned filled = to.fill;
  int result;
#ifdef AVX2
  if (HAS_AVX2) result = values_avx2(s, new, symbols, out ? &to : NULL);
  else
#endif
    result = values_of(s, new, symbols, out ? &to : NULL);
  if (out) *position += 8 * (uint64_t)(to.place - before) + to.fill - filled;
  return result;
}

/* Add to `cells` (256 a row, all 256 rows) how often each symbol stands in each row. */
EXPORT int modelsync_core_count(const uint8_t *rows, const uint8_t *symbols, size_t total, int64_t *cells) {
  for (size_t index = 0; index < total; index++) cells[(size_t)rows[index] << 8 | symbols[index]]++;
  return OK;
}

/* What `prices` (256 a row, all 256 rows) says of each symbol in its row. */
EXPORT int modelsync_core_costs(const uint8_t *rows, const uint8_t *symbols, size_t total, const float *prices, float *out) {
  for (size_t index = 0; index < total; index++) out[index] = prices[(size_t)rows[index] << 8 | symbols[index]];
  return OK;
}

/* As rans_encode, of symbols in rows of `steps` (256 a row, all 256 rows): frequency in bits 0 to 15, first slot above. */
EXPORT size_t modelsync_core_rans_encode_rows(const uint8_t *rows, const uint8_t *symbols, size_t total, const uint32_t *steps,
                                              uint32_t *state, size_t lanes, uint16_t *words) {
  size_t room = total, lane = total % lanes;
  for (size_t index = total; index-- > 0;) {
    lane = (lane ? lane : lanes) - 1;
    const uint32_t step = steps[(size_t)rows[index] << 8 | symbols[index]], frequency = step & 0xffff;
    uint32_t now = state[lane];
    if (frequency == 0) return SIZE_MAX;
    const uint32_t full = now >> 20 >= frequency; /* without a branch: nobody can predict it */
    words[room - 1] = (uint16_t)now;
    room -= full;
    now >>= full << 4;
    const uint32_t quotient = now / frequency;
    state[lane] = (quotient << 12) + (now - quotient * frequency) + (step >> 16);
  }
  return total - room;
}
