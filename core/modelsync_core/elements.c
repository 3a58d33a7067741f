/* From predictions and symbols to elements, as modelsync_protocol/codecs/models.py and tensor_frame.py; numerals.py says
 * how floats are rounded. Products are taken in double precision and rounded once; built without contraction or fast math. */
#include "core.h"

/* Several elements' predictions do not depend on each other, and `out` is `from` or lies elsewhere altogether. */
#define EACH _Pragma("GCC ivdep") for (uint64_t i = 0; i < count; i++)

/* `count` floats times factors that lie `step` (0 or 1, known when this is compiled) apart, but for those not finite. */
INLINE void scaled(const uint8_t *from, uint8_t *out, uint64_t count, const double *factors, uint64_t step, unsigned width,
                   numeral kind) {
  if (width == 8) {
    EACH {
      uint64_t bits, made;
      double value;
      memcpy(&bits, from + 8 * i, 8);
      memcpy(&value, &bits, 8);
      value *= factors[i * step];
      memcpy(&made, &value, 8);
      made ^= (made ^ bits) & (0 - (uint64_t)(((bits >> 52) & 2047) == 2047));
      memcpy(out + 8 * i, &made, 8);
    }
  } else if (width == 4) {
    EACH {
      uint32_t bits, made;
      float value;
      memcpy(&bits, from + 4 * i, 4);
      memcpy(&value, &bits, 4);
      value = (float)((double)value * factors[i * step]);
      memcpy(&made, &value, 4);
      made ^= (made ^ bits) & (0 - (uint32_t)(((bits >> 23) & 255) == 255));
      memcpy(out + 4 * i, &made, 4);
    }
  } else if (kind.mantissa == 7) {
    EACH {
      uint16_t old;
      memcpy(&old, from + 2 * i, 2);
      const uint32_t bits = (uint32_t)old << 16;
      uint32_t made;
      float value;
      memcpy(&value, &bits, 4);
      value = (float)((double)value * factors[i * step]);
      memcpy(&made, &value, 4);
      made = made + 0x7fff + ((made >> 16) & 1);
      made ^= (made ^ bits) & (0 - (uint32_t)(((bits >> 23) & 255) == 255));
      old = (uint16_t)(made >> 16);
      memcpy(out + 2 * i, &old, 2);
    }
  } else {
    for (uint64_t i = 0; i < count; i++) {
      const uint16_t bits = (uint16_t)load(from + 2 * i, 2);
      const uint16_t made = double_to_half(half_to_double(bits) * factors[i * step]);
      store(out + 2 * i, ((bits >> 10) & 31) == 31 ? bits : made, 2);
    }
  }
}

#ifdef AVX2
/* Four doubles as singles of which the last bit is set where something is left over: a second rounding, to a type that is
 * shorter by two bits or more, then gives what one would have given (S. Boldo, G. Melquiond, 2008). */
AVX2 INLINE __m128 odd_singles(__m256d value) {
  const __m256i bits = _mm256_castpd_si256(value), rest = _mm256_set1_epi64x((1 << 29) - 1);
  const __m256i none = _mm256_cmpeq_epi64(_mm256_and_si256(bits, rest), _mm256_setzero_si256());
  const __m256i odd = _mm256_andnot_si256(none, _mm256_set1_epi64x(1 << 29));
  return _mm256_cvtpd_ps(_mm256_castsi256_pd(_mm256_or_si256(_mm256_andnot_si256(rest, bits), odd)));
}

AVX2 static void scaled_halves(const uint8_t *from, uint8_t *out, uint64_t count, const double *factors, uint64_t step) {
  uint64_t i = 0;
  const __m128i mask = _mm_set1_epi16(0x7c00);
  for (; i + 8 <= count; i += 8) {
    const __m128i bits = _mm_loadu_si128((const __m128i *)(from + 2 * i));
    const __m256 singles = _mm256_cvtph_ps(bits);
    const __m256d low = step ? _mm256_loadu_pd(factors + i) : _mm256_set1_pd(*factors);
    const __m256d high = step ? _mm256_loadu_pd(factors + i + 4) : low;
    const __m128 first = odd_singles(_mm256_mul_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(singles)), low));
    const __m128 second = odd_singles(_mm256_mul_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(singles, 1)), high));
    const __m128i made = _mm256_cvtps_ph(_mm256_set_m128(second, first), _MM_FROUND_TO_NEAREST_INT);
    const __m128i kept = _mm_cmpeq_epi16(_mm_and_si128(bits, mask), mask);
    _mm_storeu_si128((__m128i *)(out + 2 * i), _mm_blendv_epi8(made, bits, kept));
  }
  scaled(from + 2 * i, out + 2 * i, count - i, factors + i * step, step, 2, (numeral){2, 10, 1, 0});
}

/* Replace contexts by their tables, 32 at a time: a shuffle looks up 16 entries, and gives zero for what is not among them. */
AVX2 static void looked_up(const uint8_t *choose, uint8_t *selectors, uint64_t count) {
  __m256i entries[8];
  for (unsigned part = 0; part < 8; part++) {
    uint8_t sixteen[16] = {0};
    memcpy(sixteen, choose + 16 * part, part < 7 ? 16 : CONTEXTS - 112);
    entries[part] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)sixteen));
  }
  uint64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    __m256i place = _mm256_loadu_si256((const __m256i *)(selectors + i)), found = _mm256_setzero_si256();
    for (unsigned part = 0; part < 8; part++) {
      const __m256i inside = _mm256_adds_epu8(place, _mm256_set1_epi8(0x70));
      found = _mm256_or_si256(found, _mm256_shuffle_epi8(entries[part], inside));
      place = _mm256_sub_epi8(place, _mm256_set1_epi8(16));
    }
    _mm256_storeu_si256((__m256i *)(selectors + i), found);
  }
  for (; i < count; i++) selectors[i] = choose[selectors[i]];
}
#endif

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
                   uint8_t *selectors, unsigned width, int vectors) {
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
#ifdef AVX2
  if (vectors) {
    looked_up(s->choose, selectors, count);
    return;
  }
#endif
  (void)vectors;
  for (uint64_t i = 0; i < count; i++) selectors[i] = s->choose[selectors[i]];
}

enum { RUN = 4096 }; /* elements that are predicted, and then given their tables, while they are near */

INLINE void predict(const segment *s, const uint8_t *base, uint8_t *out, uint8_t *selectors, unsigned width, int vectors) {
  const numeral kind = s->kind;
  const int alike = s->rows == NULL && s->offsets == NULL && s->predictor <= GLOBAL; /* in which row does not matter */
  const uint64_t columns = alike ? s->count : s->columns;
  uint64_t index = 0, row = 0, across = 0, left = alike ? columns : columns - s->column;
  if (base != NULL && base != out && s->predictor == IDENTITY) memcpy(out, base, s->count * width);
  while (index < s->count) { /* a run: one row's elements, of which columns go up by one */
    uint64_t run = s->count - index < left ? s->count - index : left;
    if (columns - across < run) run = columns - across;
    if (run > RUN) run = RUN;
    const uint32_t level = s->rows ? s->rows[row] : 0;
    if (base != NULL && s->predictor != IDENTITY) {
      const uint64_t place = s->predictor == ROW ? row : s->predictor == COLUMN ? across : 0, step = s->predictor == COLUMN;
      const uint8_t *from = base + index * width;
      uint8_t *to = out + index * width;
#ifdef AVX2
      if (vectors && width == 2 && kind.mantissa == 10) scaled_halves(from, to, run, s->factors + place, step);
      else
#endif
      if (kind.mantissa && step) scaled(from, to, run, s->factors + place, 1, width, kind);
      else if (kind.mantissa) scaled(from, to, run, s->factors + place, 0, width, kind);
      else
        for (uint64_t i = 0; i < run; i++)
          to[i] = (uint8_t)mapped(from[i], s->slopes[place + i * step], s->shifts[place + i * step], kind);
    }
    if (s->rows != NULL && level == 0) memset(selectors + index, s->choose[0], run);
    else
      choose(s, base == NULL ? NULL : out + index * width, run, s->level + (int32_t)level,
             s->offsets ? s->offsets + across : NULL, selectors + index, width, vectors);
    index += run, across += run, left -= run;
    if (left == 0) row++, left = columns;
    if (across == columns) across = 0;
  }
}

INLINE int predicted(const segment *s, size_t count, const uint8_t *base, uint8_t *out, uint8_t *selectors, int vectors) {
  for (; count > 0; count--, selectors += s->count, s++) {
    const uint8_t *from = s->base == NO_BASE ? NULL : base + s->base;
    uint8_t *to = out + s->place;
    if (s->added != NULL) {
      if (from == NULL || adapted_segment(s, from, to, selectors) != OK) return DOES_NOT_END;
      continue;
    }
    switch (s->kind.width) {
      case 1: predict(s, from, to, selectors, 1, vectors); break;
      case 2: predict(s, from, to, selectors, 2, vectors); break;
      case 4: predict(s, from, to, selectors, 4, vectors); break;
      case 8: predict(s, from, to, selectors, 8, vectors); break;
      default: return DOES_NOT_END;
    }
  }
  return OK;
}

#ifdef AVX2
AVX2 static int predicted_avx2(const segment *s, size_t count, const uint8_t *base, uint8_t *out, uint8_t *selectors) {
  return predicted(s, count, base, out, selectors, 1);
}
#endif

/* Write the predictions of `count` segments (where they have a base) to `out`, which may be `base`, and each element's table to
 * `selectors`, segment after segment. */
EXPORT int modelsync_core_predict(const segment *s, size_t count, const uint8_t *base, uint8_t *out, uint8_t *selectors) {
#ifdef AVX2
  if (HAS_AVX2) return predicted_avx2(s, count, base, out, selectors);
#endif
  return predicted(s, count, base, out, selectors, 0);
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

#ifdef AVX2
enum { EIGHTS_BITS = 25 }; /* of a field that lies in 32 bits from any bit of its first byte on */

/* Letters in 32 bits: raw, sign_raw in bit 8, negative in bit 9, and what `lead` is above its raw bits from 16 on. */
AVX2 static void small_letters(const letter *letters, int32_t *small) {
  for (unsigned symbol = 0; symbol < 256; symbol++) {
    const letter l = letters[symbol];
    const uint32_t below = l.raw - l.sign_raw;
    const int fits = l.raw <= EIGHTS_BITS && l.sign_raw <= l.raw && l.lead >> below < 1 << 16 && (l.lead >> below) << below == l.lead;
    small[symbol] = fits ? (int32_t)(l.raw | (uint32_t)l.sign_raw << 8 | (uint32_t)l.negative << 9 | (l.lead >> below) << 16) : 255;
  }
}

/* As `deltas`, eight elements at a time, of at most 32 bits and none dropped, as long as raw bits are plenty; returns how many. */
AVX2 INLINE uint64_t by_eight(numeral kind, const letter *letters, const int32_t *small, const uint8_t *symbols, uint64_t count,
                              uint8_t *out, bits *raw, unsigned width) {
  const __m256i all = _mm256_set1_epi32(width == 4 ? -1 : (1 << (8 * width % 32)) - 1), one = _mm256_set1_epi32(1);
  const __m256i sign = _mm256_set1_epi32((int)(1u << (8 * width - 1)));
  const __m256i fourth = _mm256_set1_epi32(3), later = _mm256_setr_epi32(0, 0, 0, 0, -1, -1, -1, -1);
  bits from = *raw;
  uint64_t index = 0;
  for (; index + 8 <= count && from.limit - from.position >= 8 * 72; index += 8) {
    uint8_t *place = out + index * width;
    const __m256i symbol = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(symbols + index)));
    const __m256i info = _mm256_i32gather_epi32(small, symbol, 4), size = _mm256_and_si256(info, _mm256_set1_epi32(255));
    if (_mm256_movemask_epi8(_mm256_cmpgt_epi32(size, _mm256_set1_epi32(EIGHTS_BITS)))) {
      for (unsigned i = 0; i < 8; i++) delta(kind, letters + symbols[index + i], &from, place + i * width, width, 64);
      continue;
    }
    __m256i ends = _mm256_add_epi32(size, _mm256_slli_si256(size, 4));
    ends = _mm256_add_epi32(ends, _mm256_slli_si256(ends, 8));
    ends = _mm256_add_epi32(ends, _mm256_and_si256(later, _mm256_permutevar8x32_epi32(ends, fourth)));
    const __m256i begins = _mm256_add_epi32(_mm256_sub_epi32(ends, size), _mm256_set1_epi32((int)(from.position & 7)));
    const __m256i words =
        _mm256_i32gather_epi32((const int *)(const void *)(from.data + (from.position >> 3)), _mm256_srli_epi32(begins, 3), 1);
    const __m256i mask = _mm256_sub_epi32(_mm256_sllv_epi32(one, size), one);
    const __m256i field = _mm256_and_si256(_mm256_srlv_epi32(words, _mm256_and_si256(begins, _mm256_set1_epi32(7))), mask);
    const __m256i sign_raw = _mm256_and_si256(_mm256_srli_epi32(info, 8), one);
    __m256i minus = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi32(info, 9), one), _mm256_and_si256(field, sign_raw));
    const __m256i lead = _mm256_sllv_epi32(_mm256_srli_epi32(info, 16), _mm256_sub_epi32(size, sign_raw));
    const __m256i value = _mm256_or_si256(lead, _mm256_srlv_epi32(field, sign_raw));
    __m256i guess = width == 4   ? _mm256_loadu_si256((const __m256i *)place)
                    : width == 2 ? _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)place))
                                 : _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)place));
    if (kind.mantissa) { /* to integers in the floats' order */
      const __m256i top = _mm256_srli_epi32(guess, 8 * width - 1);
      minus = _mm256_xor_si256(minus, top);
      guess = _mm256_xor_si256(guess, _mm256_or_si256(_mm256_sub_epi32(_mm256_setzero_si256(), top), sign));
    }
    const __m256i change = _mm256_add_epi32(_mm256_xor_si256(value, _mm256_sub_epi32(_mm256_setzero_si256(), minus)), minus);
    __m256i made = _mm256_and_si256(_mm256_add_epi32(guess, change), all);
    if (kind.mantissa) {
      const __m256i low = _mm256_sub_epi32(_mm256_srli_epi32(made, 8 * width - 1), one);
      made = _mm256_and_si256(_mm256_xor_si256(made, _mm256_or_si256(low, sign)), all);
    }
    if (width == 4) _mm256_storeu_si256((__m256i *)place, made);
    else {
      const __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(made), _mm256_extracti128_si256(made, 1));
      if (width == 2) _mm_storeu_si128((__m128i *)place, halves);
      else _mm_storel_epi64((__m128i *)place, _mm_packus_epi16(halves, halves));
    }
    from.position += (uint32_t)_mm256_extract_epi32(ends, 7);
  }
  *raw = from;
  return index;
}

#define BY_EIGHT(name, w, m)                                                                                             \
  AVX2 static uint64_t name(const letter *letters, const int32_t *small, const uint8_t *symbols, uint64_t count,          \
                            uint8_t *out, bits *raw) {                                                                     \
    return by_eight((numeral){w, m, 1, 0}, letters, small, symbols, count, out, raw, w);                                   \
  }
BY_EIGHT(singles_by_eight, 4, 23)
BY_EIGHT(halves_by_eight, 2, 10)
BY_EIGHT(brains_by_eight, 2, 7)
BY_EIGHT(bytes_by_eight, 1, 0)
#endif

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

/* The elements of one segment from their symbols. */
INLINE int elements(const segment *s, const letter *letters, const int32_t *small, const uint8_t *symbols, uint8_t *out,
                    bits *raw) {
  const numeral k = s->kind;
  const uint64_t count = s->count;
  if (k.drop >= 8 * k.width) return DOES_NOT_END;
  if (s->mode == MODE_VALUE && k.mantissa) {
    if (k.mantissa < VALUE_TOP_BITS || k.drop > k.mantissa - VALUE_TOP_BITS) return DOES_NOT_END;
    switch (k.width) {
      case 2: return values(s, symbols, out, raw, 2);
      case 4: return values(s, symbols, out, raw, 4);
      case 8: return values(s, symbols, out, raw, 8);
    }
    return DOES_NOT_END;
  }
  if (s->mode == MODE_VALUE) {
    for (uint64_t index = 0; index < count; index++) store(out + index * k.width, symbols[index], k.width);
    return OK;
  }
#ifdef AVX2
#define EIGHTS(name) \
  if (small != NULL) done = name(letters, small, symbols, count, out, raw);
#else
#define EIGHTS(name)
  (void)small;
#endif
#define CASE(w, m, name)                                                                                 \
  if (k.width == w && k.mantissa == m && k.drop == 0) {                                                  \
    uint64_t done = 0;                                                                                   \
    EIGHTS(name)                                                                                         \
    return deltas((numeral){w, m, 1, 0}, letters, symbols + done, count - done, out + done * w, raw, w); \
  }
  CASE(4, 23, singles_by_eight) CASE(2, 10, halves_by_eight) CASE(2, 7, brains_by_eight) CASE(1, 0, bytes_by_eight)
#undef CASE
#undef EIGHTS
  switch (k.width) {
    case 1: return deltas(k, letters, symbols, count, out, raw, 1);
    case 2: return deltas(k, letters, symbols, count, out, raw, 2);
    case 4: return deltas(k, letters, symbols, count, out, raw, 4);
    case 8: return deltas(k, letters, symbols, count, out, raw, 8);
  }
  return DOES_NOT_END;
}

INLINE int corrected(const segment *s, size_t count, const letter *letters, const int32_t *small, const uint8_t *symbols,
                     uint8_t *out, bits *raw) {
  int result = OK;
  for (; count > 0 && result == OK; count--, symbols += s->count, s++)
    result = elements(s, letters, small, symbols, out + s->place, raw);
  return result;
}

#ifdef AVX2
AVX2 static int corrected_avx2(const segment *s, size_t count, const letter *letters, const uint8_t *symbols, uint8_t *out,
                               bits *raw) {
  int32_t small[256];
  small_letters(letters, small);
  return corrected(s, count, letters, small, symbols, out, raw);
}
#endif

/* The elements of `count` segments, from the predictions in `out`, their symbols, segment after segment, and their raw bits;
 * 256 letters. */
EXPORT int modelsync_core_correct(const segment *s, size_t count, const letter *letters, const uint8_t *symbols, uint8_t *out,
                                  bits *raw) {
#ifdef AVX2
  if (HAS_AVX2) return corrected_avx2(s, count, letters, symbols, out, raw);
#endif
  return corrected(s, count, letters, NULL, symbols, out, raw);
}
