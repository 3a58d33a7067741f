/* The hot loops of modelsync's encodings, exact to the bit: NumPy is the reference (modelsync_protocol/codecs), this is
 * the same, faster. Nothing here allocates, keeps state, or trusts a number that came from a payload: each function is given the
 * sizes of what it may touch, and says by its result what the reference says by FormatError. Little-endian machines only. */
#ifndef MODELSYNC_CORE_H
#define MODELSYNC_CORE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the core reads little-endian arrays in place; use the NumPy reference on this machine"
#endif

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

/* Results; positive ones are what the reference raises FormatError for. */
enum { OK = 0, CUT_SHORT = 1, DOES_NOT_END = 2 };

/* Raised by one whenever an argument of an exported function changes its meaning. */
#define ABI 1

INLINE uint64_t load(const uint8_t *place, unsigned width) {
  uint64_t value = 0;
  memcpy(&value, place, width);
  return value;
}

INLINE void store(uint8_t *place, uint64_t value, unsigned width) { memcpy(place, &value, width); }

/* How elements are typed; as numerals.Numeral. `mantissa`: stored bits of a float's, 0 for integers. */
typedef struct {
  uint32_t width, mantissa, is_signed, drop;
} numeral;

/* As numerals.shortened: order-preserving integer without its lowest `drop` bits. */
INLINE uint64_t shortened(uint64_t bits, unsigned width, numeral kind) {
  const uint64_t all = width == 8 ? ~0ull : (1ull << (8 * width)) - 1;
  if (kind.mantissa) {
    const uint64_t sign = 1ull << (8 * width - 1);
    bits ^= (bits & sign) ? all : sign;
  }
  return bits >> kind.drop;
}

/* As numerals.lengthened. */
INLINE uint64_t lengthened(uint64_t value, unsigned width, numeral kind) {
  const uint64_t all = width == 8 ? ~0ull : (1ull << (8 * width)) - 1;
  value = (value << kind.drop) & all;
  if (kind.mantissa) {
    const uint64_t sign = 1ull << (8 * width - 1);
    value ^= (value & sign) ? sign : all;
  }
  return value & (all << kind.drop);
}

#endif
