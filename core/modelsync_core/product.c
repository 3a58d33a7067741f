/* Predictions by a change of low rank, as modelsync_protocol/codecs/adapted.py: the base plus a product of two thin
 * matrices, summed up as it says there and rounded once to the element's type. */
#include "core.h"

enum { TILE = 256, PHASES = 8, CLASSES = 15, BYTE_PHASES = 120 };

/* `width` ≤ TILE elements of a row from `column` on. */
INLINE void tile(const product *p, uint64_t row, uint64_t column, unsigned width, double *values) {
  if (p->merged) {
    const float *left = (const float *)p->left + row, *right = (const float *)p->right + column;
    float sums[TILE] = {0};
    for (uint32_t part = 0; part < p->rank; part++, left += p->rows, right += p->columns) {
      const double factor = *left;
      for (unsigned i = 0; i < width; i++) sums[i] = (float)((double)sums[i] + factor * (double)right[i]);
    }
    for (unsigned i = 0; i < width; i++) values[i] = (float)((double)sums[i] * p->unit);
    return;
  }
  const int32_t *left = (const int32_t *)p->left + row, *right = (const int32_t *)p->right + column;
  uint64_t sums[TILE] = {0}; /* none leaves 63 bits: low_rank.product has seen to it */
  for (uint32_t part = 0; part < p->rank; part++, left += p->rows, right += p->columns) {
    const int64_t factor = *left;
    for (unsigned i = 0; i < width; i++) sums[i] += (uint64_t)(factor * right[i]);
  }
  for (unsigned i = 0; i < width; i++) values[i] = (double)(int64_t)sums[i] * p->unit;
}

INLINE double widened(uint64_t bits, unsigned width, numeral kind) {
  if (width == 4 || kind.mantissa == 7) {
    const uint32_t single = width == 4 ? (uint32_t)bits : (uint32_t)bits << 16;
    float value;
    memcpy(&value, &single, 4);
    return value;
  }
  return half_to_double((uint16_t)bits);
}

INLINE uint64_t narrowed(double value, unsigned width, numeral kind) {
  if (width == 4 || kind.mantissa == 7) {
    const float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, 4);
    return width == 4 ? bits : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 & 0xffff;
  }
  return double_to_half(value);
}

/* A number's place among `count` from `-count / 2` on, clipped; what is no number counts as the lowest. */
INLINE uint32_t place_of(double value, int32_t count) {
  const int32_t half = count / 2;
  if (!(value >= -half)) return 0;
  if (value >= count - half) return (uint32_t)count - 1;
  const int32_t whole = (int32_t)value;
  return (uint32_t)(whole - (value < whole) + half);
}

INLINE uint32_t number(const segment *s, numeral kind, double added, const uint8_t *base, uint8_t *out, unsigned width) {
  const uint64_t mask = s->bias, bits = load(base, width);
  const double exact = widened(bits, width, kind) + added;
  uint64_t made = narrowed(exact, width, kind);
  double rest = 0;
  if (((bits >> kind.mantissa) & mask) == mask || ((made >> kind.mantissa) & mask) == mask) made = bits;
  else rest = exact - widened(made, width, kind);
  int64_t exponent = (made >> kind.mantissa) & mask;
  exponent = exponent > 1 ? exponent : 1;
  const uint64_t power = (uint64_t)((int64_t)(mask / 2 + kind.mantissa) - exponent + 1023) << 52;
  double units;
  memcpy(&units, &power, 8);
  rest *= units;
  if (made >> (8 * width - 1)) rest = -rest;
  int64_t class = exponent - s->level;
  class = class < 0 ? 0 : class > CLASSES - 1 ? CLASSES - 1 : class;
  store(out, made, width);
  return (uint32_t)class * PHASES + place_of(rest * PHASES, PHASES);
}

INLINE uint32_t byte(const segment *s, double added, uint64_t place, const uint8_t *base, uint8_t *out) {
  const int64_t value = s->kind.is_signed ? (int8_t)*base : (int64_t)*base;
  const int64_t scaled = s->predictor == IDENTITY ? value * 65536 : value * s->slopes[place] + s->shifts[place];
  double exact = (double)scaled * 0x1p-16 + added;
  if (exact - exact != 0) exact = 0; /* not finite */
  const double low = s->kind.is_signed ? -128 : 0, high = s->kind.is_signed ? 127 : 255;
  const double rounded = ((exact < low ? low : exact > high ? high : exact) + 0x1.8p52) - 0x1.8p52;
  *out = (uint8_t)(int32_t)rounded;
  return place_of((exact - rounded) * BYTE_PHASES, BYTE_PHASES);
}

INLINE void adapt(const segment *s, const product *p, const uint8_t *base, uint8_t *out, uint8_t *selectors, unsigned width,
                  numeral kind) {
  double values[TILE];
  uint64_t index = 0, row = 0, across = s->column, over = 0, at = p->first / p->columns, column = p->first % p->columns;
  while (index < s->count) { /* a tile: elements of one row of the product */
    uint64_t run = s->count - index < TILE ? s->count - index : TILE;
    if (p->columns - column < run) run = p->columns - column;
    tile(p, at, column, (unsigned)run, values);
    for (uint64_t i = 0; i < run; i++, index++) {
      uint32_t context;
      if (kind.mantissa) {
        context = number(s, kind, values[i], base + index * width, out + index * width, width);
      } else {
        const uint64_t place = s->predictor == ROW ? row : s->predictor == COLUMN ? over : 0;
        context = byte(s, values[i], place, base + index, out + index);
      }
      selectors[index] = s->choose[context];
      if (++across == s->columns) across = 0, row++;
      if (++over == s->columns) over = 0;
    }
    column += run;
    if (column == p->columns) column = 0, at++;
  }
}

INLINE int adapted(const segment *s, const product *p, const uint8_t *base, uint8_t *out, uint8_t *selectors) {
  if (s->kind.width == 4 && s->kind.mantissa == 23) adapt(s, p, base, out, selectors, 4, (numeral){4, 23, 1, 0});
  else if (s->kind.width == 2 && s->kind.mantissa == 10) adapt(s, p, base, out, selectors, 2, (numeral){2, 10, 1, 0});
  else if (s->kind.width == 2 && s->kind.mantissa == 7) adapt(s, p, base, out, selectors, 2, (numeral){2, 7, 1, 0});
  else if (s->kind.width == 1) adapt(s, p, base, out, selectors, 1, (numeral){1, 0, 0, 0});
  else return DOES_NOT_END;
  return OK;
}

#ifdef AVX2
AVX2 static int adapted_avx2(const segment *s, const uint8_t *base, uint8_t *out, uint8_t *selectors) {
  return adapted(s, s->added, base, out, selectors);
}
#endif

int adapted_segment(const segment *s, const uint8_t *base, uint8_t *out, uint8_t *selectors) {
#ifdef AVX2
  if (HAS_AVX2) return adapted_avx2(s, base, out, selectors);
#endif
  return adapted(s, s->added, base, out, selectors);
}
