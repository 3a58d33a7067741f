/* From predictions and symbols to elements, as modelsync_protocol/codecs/models.py and tensor_frame.py; numerals.py says
 * how floats are rounded. Products are taken in double precision and rounded once; built without contraction or fast math. */
#include "core.h"

INLINE uint64_t scaled(uint64_t bits, double factor, unsigned width, numeral kind, uint64_t mask) {
  if (((bits >> kind.mantissa) & mask) == mask) return bits; /* not finite */
  if (width == 8) {
    double value;
    memcpy(&value, &bits, 8);
    value *= factor;
    memcpy(&bits, &value, 8);
    return bits;
  }
  if (width == 4) {
    const uint32_t old = (uint32_t)bits;
    float value;
    memcpy(&value, &old, 4);
    value = (float)((double)value * factor);
    uint32_t made;
    memcpy(&made, &value, 4);
    return made;
  }
  if (kind.mantissa == 7) {
    const uint32_t old = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &old, 4);
    value = (float)((double)value * factor);
    uint32_t made;
    memcpy(&made, &value, 4);
    return (made + 0x7fff + ((made >> 16) & 1)) >> 16 & 0xffff;
  }
  return double_to_half(half_to_double((uint16_t)bits) * factor);
}

INLINE uint64_t mapped(uint64_t bits, int32_t slope, int32_t shift, numeral kind) {
  const int64_t value = kind.is_signed ? (int8_t)bits : (int64_t)bits;
  int64_t result = (value * slope + shift + (1 << 15)) >> 16;
  const int64_t low = kind.is_signed ? -128 : 0, high = kind.is_signed ? 127 : 255;
  result = result < low ? low : result > high ? high : result;
  return (uint8_t)result;
}

/* The contexts of `count` floats by their exponents under `level` (and each column's own), as models.contexts. */
#define CONTEXTS_OF(type)                                                                                            \
  INLINE void contexts_##type(const uint8_t *restrict from, uint64_t count, unsigned mantissa, type mask,            \
                              int32_t level, const uint8_t *restrict offsets, uint8_t *restrict contexts) {          \
    for (uint64_t i = 0; i < count; i++) {                                                                           \
      type bits;                                                                                                     \
      memcpy(&bits, from + i * sizeof bits, sizeof bits);                                                            \
      int32_t exponent = (int32_t)((bits >> mantissa) & mask);                                                       \
      exponent = exponent > 1 ? exponent : 1;                                                                        \
      int32_t context = level - 2 * exponent + (offsets ? offsets[i] : 0);                                           \
      context = context < 1 ? 1 : context;                                                                           \
      contexts[i] = (uint8_t)(context > CONTEXTS - 1 ? CONTEXTS - 1 : context);                                      \
    }                                                                                                                \
  }
CONTEXTS_OF(uint16_t)
CONTEXTS_OF(uint32_t)
CONTEXTS_OF(uint64_t)

/* The tables of `count` elements of one row whose predictions lie in `guesses` (NULL: there are none). */
INLINE void choose(const segment *s, const uint8_t *guesses, uint64_t count, int32_t level, const uint8_t *offsets,
                   uint8_t *selectors, unsigned width) {
  const numeral kind = s->kind;
  if (s->mode == MODE_VALUE && kind.mantissa) {
    for (uint64_t i = 0; i < count; i++)
      selectors[i] = (uint8_t)(((level + (offsets ? offsets[i] : 0)) & 1) + 1);
  } else if (guesses != NULL && kind.mantissa) {
    if (width == 2) contexts_uint16_t(guesses, count, kind.mantissa, (uint16_t)s->bias, level, offsets, selectors);
    if (width == 4) contexts_uint32_t(guesses, count, kind.mantissa, s->bias, level, offsets, selectors);
    if (width == 8) contexts_uint64_t(guesses, count, kind.mantissa, s->bias, level, offsets, selectors);
  } else {
    for (uint64_t i = 0; i < count; i++) {
      const int32_t context = level + (offsets ? offsets[i] : 0);
      selectors[i] = (uint8_t)(context < 1 ? 1 : context > CONTEXTS - 1 ? CONTEXTS - 1 : context);
    }
  }
  for (uint64_t i = 0; i < count; i++) selectors[i] = s->choose[selectors[i]];
}

INLINE void predict(const segment *s, const uint8_t *base, uint8_t *out, uint8_t *selectors, unsigned width) {
  const numeral kind = s->kind;
  const int alike = s->rows == NULL && s->offsets == NULL && s->predictor <= GLOBAL; /* in which row does not matter */
  const uint64_t columns = alike ? s->count : s->columns;
  uint64_t index = 0, row = 0, across = 0, left = alike ? columns : columns - s->column;
  if (base != NULL && base != out && s->predictor == IDENTITY) memcpy(out, base, s->count * width);
  while (index < s->count) { /* a run: one row's elements, of which columns go up by one */
    uint64_t run = s->count - index < left ? s->count - index : left;
    if (columns - across < run) run = columns - across;
    const uint32_t level = s->rows ? s->rows[row] : 0;
    if (base != NULL && s->predictor != IDENTITY) {
      for (uint64_t i = 0; i < run; i++) {
        const uint64_t guess = load(base + (index + i) * width, width);
        const uint64_t place = s->predictor == ROW ? row : s->predictor == COLUMN ? across + i : 0;
        const uint64_t made = kind.mantissa ? scaled(guess, s->factors[place], width, kind, s->bias)
                                            : mapped(guess, s->slopes[place], s->shifts[place], kind);
        store(out + (index + i) * width, made, width);
      }
    }
    if (s->rows != NULL && level == 0) memset(selectors + index, s->choose[0], run);
    else
      choose(s, base == NULL ? NULL : out + index * width, run, s->level + (int32_t)level,
             s->offsets ? s->offsets + across : NULL, selectors + index, width);
    index += run, across += run, left -= run;
    if (left == 0) row++, left = columns;
    if (across == columns) across = 0;
  }
}

INLINE int predicted(const segment *s, const uint8_t *base, uint8_t *out, uint8_t *selectors) {
  switch (s->kind.width) {
    case 1: predict(s, base, out, selectors, 1); return OK;
    case 2: predict(s, base, out, selectors, 2); return OK;
    case 4: predict(s, base, out, selectors, 4); return OK;
    case 8: predict(s, base, out, selectors, 8); return OK;
  }
  return DOES_NOT_END;
}

#ifdef AVX2
AVX2 static int predicted_avx2(const segment *s, const uint8_t *base, uint8_t *out, uint8_t *selectors) {
  return predicted(s, base, out, selectors);
}
#endif

/* Write predictions (where there is a base) to `out`, which may be `base`, and each element's table to `selectors`. */
EXPORT int modelsync_core_predict(const segment *s, const uint8_t *base, uint8_t *out, uint8_t *selectors) {
#ifdef AVX2
  if (HAS_AVX2) return predicted_avx2(s, base, out, selectors);
#endif
  return predicted(s, base, out, selectors);
}

/* Fields of bits, lowest first. 16 bytes behind the last bit must be readable. */
typedef struct {
  const uint8_t *data;
  uint64_t limit, position; /* bits */
} bits;

/* `count` ≤ 64 (`most` ≥ count is known when this is compiled); the caller has checked the limit. */
INLINE uint64_t take(bits *from, unsigned count, unsigned most) {
  const uint8_t *place = from->data + (from->position >> 3);
  const unsigned shift = from->position & 7;
  uint64_t value = load(place, 8) >> shift;
  if (most > 57 && shift + count > 64) value |= (uint64_t)place[8] << (64 - shift);
  from->position += count;
  return most > 63 && count == 64 ? value : value & ((1ull << count) - 1);
}

/* A symbol of symbols.DELTA: the magnitude's leading bits, raw bits, minus, whether the lowest raw bit is the sign. */
typedef struct {
  uint64_t lead;
  uint32_t raw;
  uint16_t negative, sign_raw;
} letter;

enum { STEP = 64 }; /* elements between two looks at the limit, where there is plenty */

/* One element: its prediction in `out` corrected by a symbol of at most `most` raw bits. */
INLINE void delta(numeral kind, const letter *l, bits *from, uint8_t *out, unsigned width, unsigned most) {
  uint64_t field = take(from, l->raw, most);
  const uint64_t minus_raw = field & l->sign_raw;
  field >>= l->sign_raw;
  const uint64_t value = field | l->lead, guess = load(out, width);
  uint64_t minus = l->negative | minus_raw;
  if (kind.mantissa) minus ^= (guess >> (8 * width - 1)) & 1;
  store(out, lengthened((value ^ (0 - minus)) + minus + shortened(guess, width, kind), width, kind), width);
}

INLINE int deltas(numeral kind, const letter *letters, const uint8_t *symbols, uint64_t count, uint8_t *out, bits *raw,
                  unsigned width) {
  bits from = *raw;
  uint64_t index = 0;
  while (index < count) {
    uint64_t end = index + STEP < count ? index + STEP : count;
    if (from.limit - from.position >= 64 * STEP) {
      for (; index < end; index++) {
        const letter *l = letters + symbols[index];
        /* A publisher writes no symbol of more bits than an element has; whoever does gets what the reference gives. */
        if (__builtin_expect(l->raw > 8 * width + 1, 0)) delta(kind, l, &from, out + index * width, width, 64);
        else delta(kind, l, &from, out + index * width, width, 8 * width + 1);
      }
    } else {
      for (; index < end; index++) {
        const letter *l = letters + symbols[index];
        if (from.limit - from.position < l->raw) return CUT_SHORT;
        delta(kind, l, &from, out + index * width, width, 64);
      }
    }
  }
  *raw = from;
  return OK;
}

INLINE int corrected(numeral k, const letter *letters, const uint8_t *symbols, uint64_t count, uint8_t *out, bits *raw) {
#define CASE(w, m) \
  if (k.width == w && k.mantissa == m && k.drop == 0) \
    return deltas((numeral){w, m, 1, 0}, letters, symbols, count, out, raw, w);
  CASE(2, 10) CASE(2, 7) CASE(4, 23) CASE(1, 0)
#undef CASE
  switch (k.width) {
    case 1: return deltas(k, letters, symbols, count, out, raw, 1);
    case 2: return deltas(k, letters, symbols, count, out, raw, 2);
    case 4: return deltas(k, letters, symbols, count, out, raw, 4);
    case 8: return deltas(k, letters, symbols, count, out, raw, 8);
  }
  return DOES_NOT_END;
}

#ifdef AVX2
AVX2 static int corrected_avx2(numeral k, const letter *letters, const uint8_t *symbols, uint64_t count, uint8_t *out,
                               bits *raw) {
  return corrected(k, letters, symbols, count, out, raw);
}
#endif

/* Correct the predictions in `out` by `count` symbols and their raw bits (Mode.DELTA); 256 letters. */
EXPORT int modelsync_core_deltas(const numeral *kind, const letter *letters, const uint8_t *symbols, uint64_t count,
                                 uint8_t *out, bits *raw) {
  if (kind->drop >= 8 * kind->width) return DOES_NOT_END;
#ifdef AVX2
  if (HAS_AVX2) return corrected_avx2(*kind, letters, symbols, count, out, raw);
#endif
  return corrected(*kind, letters, symbols, count, out, raw);
}

enum { VALUE_ZERO = 0, VALUE_ESCAPE = 255, VALUE_TOP_BITS = 3 };

INLINE int values(const segment *s, const uint8_t *symbols, uint8_t *out, bits *raw, unsigned width) {
  const unsigned top = 8 * width, below = s->kind.mantissa - VALUE_TOP_BITS, plain = 1 + below - s->kind.drop;
  const uint64_t magnitudes = (1ull << (top - 1)) - 1;
  bits from = *raw;
  uint64_t row = 0, across = 0, left = s->columns - s->column;
  for (uint64_t index = 0; index < s->count; index++) {
    const unsigned symbol = symbols[index];
    const unsigned size = symbol == VALUE_ZERO ? 1 : symbol == VALUE_ESCAPE ? top : plain;
    if (from.limit - from.position < size) return CUT_SHORT;
    const uint64_t field = take(&from, size, 64);
    uint64_t value = field;
    if (symbol == VALUE_ZERO) {
      value = (field & 1) << (top - 1);
    } else if (symbol != VALUE_ESCAPE) {
      const int32_t level = s->level + (s->rows ? s->rows[row] : 0) + (s->offsets ? s->offsets[across] : 0);
      const uint64_t lead = (uint64_t)(int64_t)(level * 4 - (int32_t)symbol + 1);
      value = (((lead << below) | (field >> 1 << s->kind.drop)) & magnitudes) | (field & 1) << (top - 1);
    }
    store(out + index * width, value, width);
    if (--left == 0) row++, left = s->columns;
    if (++across == s->columns) across = 0;
  }
  *raw = from;
  return OK;
}

/* Floats without a counterpart, from `s->count` symbols and their raw bits (Mode.VALUE). */
EXPORT int modelsync_core_values(const segment *s, const uint8_t *symbols, uint8_t *out, bits *raw) {
  if (s->kind.mantissa < VALUE_TOP_BITS || s->kind.drop > s->kind.mantissa - VALUE_TOP_BITS) return DOES_NOT_END;
  switch (s->kind.width) {
    case 2: return values(s, symbols, out, raw, 2);
    case 4: return values(s, symbols, out, raw, 4);
    case 8: return values(s, symbols, out, raw, 8);
  }
  return DOES_NOT_END;
}
