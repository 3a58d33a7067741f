/* From predictions and symbols to elements, as modelsync_protocol/codecs/tensor_frame.py. */
#include "core.h"

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
