/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "content.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

/* Each word of 64 bits has two of NH. */
typedef uint64_t narrow __attribute__((vector_size(16)));
typedef uint32_t narrow_halves __attribute__((vector_size(16)));

struct sums {
	uint64_t first, shifted;
};

static uint64_t draw(const struct hash_seed *seed, uint64_t *number)
{
	++*number;
	return hash_words(seed, number, 1);
}

void content_expand(struct content_key *key, const struct hash_seed *seed)
{
	uint64_t number = 0;
	uint32_t i;

	for (i = 0; i < sizeof(key->block) / sizeof(key->block[0]); i++)
		key->block[i] = draw(seed, &number);
	for (i = 0; i < sizeof(key->words) / sizeof(key->words[0]); i++) {
		key->words[i] = draw(seed, &number);
		key->words[i] = key->words[i] << 64 | draw(seed, &number);
	}
	key->wide = 0;
#if defined(__x86_64__)
	key->wide = __builtin_cpu_supports("avx2") != 0;
#endif
}

/* The halves of each word, multiplied with each other. */
static inline narrow multiply_halves(narrow words)
{
#if defined(__SSE2__)
	return (narrow)_mm_mul_epu32((__m128i)words, (__m128i)(words >> 32));
#elif defined(__ARM_NEON)
	return (narrow)vmull_u32(vmovn_u64((uint64x2_t)words), vshrn_n_u64((uint64x2_t)words, 32));
#else
	return (words & 0xffffffff) * (words >> 32);
#endif
}

static inline narrow multiply(const uint8_t *data, const uint8_t *key)
{
	narrow_halves content, secret;

	memcpy(&content, data, sizeof(content));
	memcpy(&secret, key, sizeof(secret));
	return multiply_halves((narrow)(content + secret));
}

static inline void add_chunk(narrow *first, narrow *shifted, const uint8_t *data, const uint8_t *key)
{
	uint32_t half = CONTENT_CHUNK / 2;

	*first += multiply(data, key) + multiply(data + half, key + half);
	key += CONTENT_CHUNK;
	*shifted += multiply(data, key) + multiply(data + half, key + half);
}

/* A chunk that is not whole is taken with what stands before it. */
static struct sums hash_narrow(const uint8_t *key, const uint8_t *data, uint32_t length)
{
	narrow first = { 0 }, shifted = { 0 };
	uint32_t at;

	for (at = 0; at + CONTENT_CHUNK <= length; at += CONTENT_CHUNK)
		add_chunk(&first, &shifted, data + at, key + at);
	if (at < length)
		add_chunk(&first, &shifted, data + length - CONTENT_CHUNK, key + at);
	return (struct sums){ first[0] + first[1], shifted[0] + shifted[1] };
}

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx2")))

static inline WIDE __m256i multiply_wide(__m256i content, const uint8_t *key)
{
	__m256i sum = _mm256_add_epi32(content, _mm256_loadu_si256((const __m256i *)key));

	return _mm256_mul_epu32(sum, _mm256_srli_epi64(sum, 32));
}

static inline WIDE void add_chunk_wide(__m256i *first, __m256i *shifted, const uint8_t *data, const uint8_t *key)
{
	__m256i content = _mm256_loadu_si256((const __m256i *)data);

	*first = _mm256_add_epi64(*first, multiply_wide(content, key));
	*shifted = _mm256_add_epi64(*shifted, multiply_wide(content, key + CONTENT_CHUNK));
}

static WIDE struct sums hash_wide(const uint8_t *key, const uint8_t *data, uint32_t length)
{
	const uint8_t *last = data + length - CONTENT_CHUNK;
	__m256i first = _mm256_setzero_si256(), shifted = first;
	uint64_t sums[8];

	for (; data <= last; data += CONTENT_CHUNK, key += CONTENT_CHUNK)
		add_chunk_wide(&first, &shifted, data, key);
	if (length % CONTENT_CHUNK)
		add_chunk_wide(&first, &shifted, last, key);
	_mm256_storeu_si256((__m256i *)sums, first);
	_mm256_storeu_si256((__m256i *)(sums + 4), shifted);
	return (struct sums){ sums[0] + sums[1] + sums[2] + sums[3], sums[4] + sums[5] + sums[6] + sums[7] };
}
#else
#define hash_wide hash_narrow
#endif

uint64_t content_hash(const struct content_key *key, uint64_t about, const uint8_t *data, uint32_t length)
{
	const unsigned __int128 *word = key->words;
	const uint8_t *block = (const uint8_t *)key->block;
	unsigned __int128 hash = word[0] + word[1] * about + word[2] * length;
	uint32_t at;

	for (at = 0, word += 3; at < length; at += CONTENT_BLOCK, word += 2) {
		uint32_t here = length - at < CONTENT_BLOCK ? length - at : CONTENT_BLOCK;
		struct sums sums = key->wide ? hash_wide(block, data + at, here) : hash_narrow(block, data + at, here);

		hash += word[0] * sums.first + word[1] * sums.shifted;
	}
	return (uint64_t)(hash >> 64);
}
