/* Predictions and the tables that symbols are decoded with, as modelsync_protocol/codecs/models.py; numerals.py says how floats
 * are rounded. Products are taken in double precision and rounded once; built without contraction or fast math. */
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
