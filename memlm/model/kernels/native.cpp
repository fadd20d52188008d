// The kernels in C++ for CPUs; interface.py documents what each computes.
//
// Every output row has one owner that adds in a fixed order, so results do not depend on the number of threads.
// Vector code is written for AVX2, with plain loops for other processors.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <tuple>
#include <vector>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

using at::BFloat16;
using at::Half;
using at::Tensor;

// ---------------------------------------------------------------------------------------------------------------------
// Search: the k largest of a list in descending order; of equal ones, the earlier

constexpr int64_t LANES = 8;
constexpr int64_t BISECTIONS = 16;
constexpr int64_t SURPLUS = 4;  // ranking a few scores too many costs less than another round of bisection

struct Ranked {  // best first
  std::vector<float> scores;
  std::vector<int32_t> places;
  explicit Ranked(int64_t k) : scores(k + LANES), places(k) {}
  void put(int64_t rank, float score, int32_t place) {
    scores[rank] = score;
    places[rank] = place;
  }
};

// Integers ordered like the floats; NaNs come out at the ends, so the order is total.
inline int32_t ordered_bits(float value) {
  value += 0.0f;  // -0.0 equals 0.0 but has different bits
  int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits < 0 ? bits ^ 0x7FFFFFFF : bits;
}

// The general algorithm, for any length and with NaNs.
void select_by_sorting(const float* scores, const int32_t* places, int64_t n, int64_t k, Ranked& best) {
  thread_local std::vector<std::pair<int32_t, int32_t>> keys;
  keys.resize(n);
  for (int64_t i = 0; i < n; i++) keys[i] = {~ordered_bits(scores[i]), static_cast<int32_t>(i)};
  std::partial_sort(keys.begin(), keys.begin() + k, keys.end());
  for (int64_t i = 0; i < k; i++) {
    const int32_t at = keys[i].second;
    best.put(i, scores[at], places ? places[at] : at);
  }
}

#ifdef __AVX2__

struct PackTable {
  alignas(32) int32_t lanes[256][8];
  PackTable() {
    for (int mask = 0; mask < 256; mask++) {
      int filled = 0;
      for (int lane = 0; lane < 8; lane++)
        if (mask >> lane & 1) lanes[mask][filled++] = lane;
      while (filled < 8) lanes[mask][filled++] = 0;
    }
  }
};
const PackTable pack_table;

// A bound that at least k of the values in these vectors reach, and few others. NaN if a value is NaN.
inline float bound_reached_by(const __m256* vectors, int64_t num_vectors, int64_t k) {
  __m256 low = vectors[0], high = vectors[0], unordered = _mm256_cmp_ps(low, low, _CMP_UNORD_Q);
  for (int64_t i = 1; i < num_vectors; i++) {
    low = _mm256_min_ps(low, vectors[i]);
    high = _mm256_max_ps(high, vectors[i]);
    unordered = _mm256_or_ps(unordered, _mm256_cmp_ps(vectors[i], vectors[i], _CMP_UNORD_Q));
  }
  if (_mm256_movemask_ps(unordered)) return std::numeric_limits<float>::quiet_NaN();
  alignas(32) float lows[8], highs[8];
  _mm256_store_ps(lows, low);
  _mm256_store_ps(highs, high);
  float reached = *std::min_element(lows, lows + 8), above = *std::max_element(highs, highs + 8);
  for (int64_t round = 0; round < BISECTIONS; round++) {
    const float middle = reached + (above - reached) * 0.5f;
    if (!(middle > reached)) break;
    const __m256 bound = _mm256_set1_ps(middle);
    __m256i counts = _mm256_setzero_si256();
    for (int64_t i = 0; i < num_vectors; i++)
      counts = _mm256_sub_epi32(counts, _mm256_castps_si256(_mm256_cmp_ps(vectors[i], bound, _CMP_GE_OQ)));
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(counts), _mm256_extracti128_si256(counts, 1));
    sum = _mm_hadd_epi32(sum, sum);
    sum = _mm_hadd_epi32(sum, sum);
    const int64_t count = _mm_cvtsi128_si32(sum);
    if (count >= k) {
      reached = middle;
      if (count <= k + SURPLUS) break;
    } else {
      above = middle;
    }
  }
  return reached;
}

// Appends the values that reach the bound, with their places. The bytes after the packed values are undefined.
inline int64_t pack(const float* scores, int64_t n, float bound, float* packed, int32_t* packed_places) {
  const __m256 bounds = _mm256_set1_ps(bound);
  __m256i counting = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  int64_t filled = 0, i = 0;
  for (; i + LANES <= n; i += LANES) {
    const __m256 vector = _mm256_loadu_ps(scores + i);
    const int mask = _mm256_movemask_ps(_mm256_cmp_ps(vector, bounds, _CMP_GE_OQ));
    const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(pack_table.lanes[mask]));
    _mm256_storeu_ps(packed + filled, _mm256_permutevar8x32_ps(vector, order));
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(packed_places + filled), _mm256_permutevar8x32_epi32(counting, order));
    filled += __builtin_popcount(mask);
    counting = _mm256_add_epi32(counting, _mm256_set1_epi32(LANES));
  }
  for (; i < n; i++)
    if (scores[i] >= bound) {
      packed[filled] = scores[i];
      packed_places[filled++] = static_cast<int32_t>(i);
    }
  return filled;
}

// Sorts a few values by rank: the number of values that are larger, or equal and earlier. Ranks eight at a time.
inline void rank_packed(float* packed, const int32_t* packed_places, int64_t n, int64_t k, Ranked& best) {
  for (int64_t i = n; i % LANES; i++) packed[i] = -std::numeric_limits<float>::infinity();
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  alignas(32) int32_t ranks[LANES];
  for (int64_t block = 0; block < n; block += LANES) {
    const __m256 mine = _mm256_loadu_ps(packed + block);
    __m256i rank = _mm256_setzero_si256();
    for (int64_t j = 0; j < block; j++)
      rank = _mm256_sub_epi32(
          rank, _mm256_castps_si256(_mm256_cmp_ps(_mm256_broadcast_ss(packed + j), mine, _CMP_GE_OQ)));
    const int64_t block_end = std::min(block + LANES, n);
    for (int64_t j = block; j < block_end; j++) {
      const __m256 other = _mm256_broadcast_ss(packed + j);
      const __m256i later = _mm256_cmpgt_epi32(lanes, _mm256_set1_epi32(static_cast<int32_t>(j - block)));
      const __m256 equal = _mm256_and_ps(_mm256_cmp_ps(other, mine, _CMP_EQ_OQ), _mm256_castsi256_ps(later));
      rank = _mm256_sub_epi32(
          rank, _mm256_castps_si256(_mm256_or_ps(_mm256_cmp_ps(other, mine, _CMP_GT_OQ), equal)));
    }
    for (int64_t j = block_end; j < n; j++)
      rank = _mm256_sub_epi32(
          rank, _mm256_castps_si256(_mm256_cmp_ps(_mm256_broadcast_ss(packed + j), mine, _CMP_GT_OQ)));
    _mm256_store_si256(reinterpret_cast<__m256i*>(ranks), rank);
    for (int64_t i = block; i < block_end; i++)
      if (ranks[i - block] < k) best.put(ranks[i - block], packed[i], packed_places[i]);
  }
}

#endif

constexpr int64_t FEW = 96;  // at most this many values are ranked among each other, at quadratic cost

struct Scratch {
  std::vector<float> packed;
  std::vector<int32_t> places;
  explicit Scratch(int64_t n) : packed(n + 2 * LANES), places(n + 2 * LANES) {}
};

#ifdef __AVX2__

// Maxima of GROUPS * LANES disjoint groups: k groups whose maximum reaches a bound hold k scores that reach it.
template <int64_t GROUPS>
inline float bound_from_maxima(const float* scores, int64_t num_vectors, int64_t k) {
  __m256 maxima[GROUPS], unordered = _mm256_setzero_ps();
  for (int64_t g = 0; g < GROUPS; g++) {
    maxima[g] = _mm256_loadu_ps(scores + g * LANES);
    unordered = _mm256_or_ps(unordered, _mm256_cmp_ps(maxima[g], maxima[g], _CMP_UNORD_Q));
  }
  int64_t i = GROUPS;
  for (; i + GROUPS <= num_vectors; i += GROUPS)
    for (int64_t g = 0; g < GROUPS; g++) {
      const __m256 vector = _mm256_loadu_ps(scores + (i + g) * LANES);
      unordered = _mm256_or_ps(unordered, _mm256_cmp_ps(vector, vector, _CMP_UNORD_Q));
      maxima[g] = _mm256_max_ps(maxima[g], vector);
    }
  for (; i < num_vectors; i++) {
    const __m256 vector = _mm256_loadu_ps(scores + i * LANES);
    unordered = _mm256_or_ps(unordered, _mm256_cmp_ps(vector, vector, _CMP_UNORD_Q));
    maxima[0] = _mm256_max_ps(maxima[0], vector);
  }
  return _mm256_movemask_ps(unordered) ? std::numeric_limits<float>::quiet_NaN()
                                       : bound_reached_by(maxima, GROUPS, k);
}

inline float bound_reached_by_scores(const float* scores, int64_t n, int64_t k) {
  for (int64_t i = n / LANES * LANES; i < n; i++)
    if (scores[i] != scores[i]) return scores[i];
  const int64_t num_vectors = n / LANES;
  if (num_vectors >= 32 && k <= 64) return bound_from_maxima<16>(scores, num_vectors, k);
  if (num_vectors >= 16 && k <= 32) return bound_from_maxima<8>(scores, num_vectors, k);
  if (num_vectors >= 8 && k <= 16) return bound_from_maxima<4>(scores, num_vectors, k);
  return std::numeric_limits<float>::quiet_NaN();
}

#endif

// The first pass finds a bound that k scores reach, the second packs the few that reach it, and only those are ranked.
void select_largest(const float* scores, int64_t n, int64_t k, Ranked& best, Scratch& scratch) {
#ifdef __AVX2__
  const float bound = bound_reached_by_scores(scores, n, k);
  if (bound == bound) {
    const int64_t filled = pack(scores, n, bound, scratch.packed.data(), scratch.places.data());
    if (filled <= FEW)
      rank_packed(scratch.packed.data(), scratch.places.data(), filled, k, best);
    else
      select_by_sorting(scratch.packed.data(), scratch.places.data(), filled, k, best);
    return;
  }
#endif
  select_by_sorting(scores, nullptr, n, k, best);
}

struct Candidates {
  std::vector<int32_t> first, second;
  std::vector<int64_t> runs;  // number of partners of each rank of the first half
  explicit Candidates(int64_t k) {
    for (int64_t i = 0; i < k; i++) {
      runs.push_back(k / (i + 1));
      for (int64_t j = 0; j < runs[i]; j++) {
        first.push_back(static_cast<int32_t>(i));
        second.push_back(static_cast<int32_t>(j));
      }
    }
  }
};

// The k largest sums of the candidate pairs of two descending lists.
void select_pairs(
    const Ranked& left, const Ranked& right, const Candidates& candidates, int64_t k, float* sums, Ranked& best,
    Scratch& scratch) {
  const int64_t n = static_cast<int64_t>(candidates.first.size());
  float* to = sums;
  for (int64_t i = 0; i < k; i++) {
    // Writes whole vectors: values written beyond the end of a run are overwritten by the next run.
    for (int64_t j = 0; j < candidates.runs[i]; j += LANES)
      for (int64_t lane = 0; lane < LANES; lane++) to[j + lane] = left.scores[i] + right.scores[j + lane];
    to += candidates.runs[i];
  }
#ifdef __AVX2__
  constexpr int64_t MOST_VECTORS = 64;
  const int64_t num_vectors = n / LANES;
  if (num_vectors >= 1 && num_vectors <= MOST_VECTORS && num_vectors * LANES >= k) {
    __m256 vectors[MOST_VECTORS];
    bool ordered = true;
    for (int64_t i = 0; i < num_vectors; i++) vectors[i] = _mm256_loadu_ps(sums + i * LANES);
    for (int64_t i = num_vectors * LANES; i < n; i++) ordered = ordered && sums[i] == sums[i];
    const float bound =
        ordered ? bound_reached_by(vectors, num_vectors, k) : std::numeric_limits<float>::quiet_NaN();
    if (bound == bound) {
      const int64_t reached = pack(sums, n, bound, scratch.packed.data(), scratch.places.data());
      if (reached <= FEW) {
        rank_packed(scratch.packed.data(), scratch.places.data(), reached, k, best);
        return;
      }
    }
  }
#endif
  select_by_sorting(sums, nullptr, n, k, best);
}

void require_shape(const char* name, const Tensor& tensor, at::IntArrayRef shape) {
  TORCH_CHECK_VALUE(tensor.sizes() == shape, name, " has shape ", tensor.sizes(), " where ", shape, " is needed");
}

// Row (h, s, t) of the sub-scores may have any address, but is itself dense.
std::tuple<Tensor, Tensor> search(const Tensor& sub_scores_in, int64_t k) {
  const Tensor sub_scores = sub_scores_in.stride(3) == 1 ? sub_scores_in : sub_scores_in.contiguous();
  const int64_t heads = sub_scores.size(0), tokens = sub_scores.size(2), n = sub_scores.size(3);
  require_shape("sub_scores", sub_scores, {heads, 2, tokens, n});
  TORCH_CHECK_VALUE(1 <= k && k <= n, "top_k is ", k, "; it must be from 1 to the number of half-keys, ", n);
  Tensor slots = at::empty({tokens, heads, k}, sub_scores.options().dtype(at::kLong));
  Tensor scores = at::empty({tokens, heads, k}, sub_scores.options());
  const float* from = sub_scores.const_data_ptr<float>();
  const int64_t head_stride = sub_scores.stride(0), half_stride = sub_scores.stride(1), token_stride = sub_scores.stride(2);
  int64_t* slots_out = slots.data_ptr<int64_t>();
  float* scores_out = scores.data_ptr<float>();
  const Candidates candidates(k);
  at::parallel_for(0, tokens * heads, 64, [&](int64_t begin, int64_t end) {
    const int64_t num_pairs = static_cast<int64_t>(candidates.first.size());
    Scratch scratch(std::max(n, num_pairs));
    std::vector<float> sums(num_pairs + LANES);
    Ranked left(k), right(k), best(k);
    for (int64_t row = begin; row < end; row++) {
      const int64_t token = row / heads, head = row % heads;
      const float* half = from + head * head_stride + token * token_stride;
      select_largest(half, n, k, left, scratch);
      select_largest(half + half_stride, n, k, right, scratch);
      select_pairs(left, right, candidates, k, sums.data(), best, scratch);
      for (int64_t i = 0; i < k; i++) {
        const int32_t pair = best.places[i];
        slots_out[row * k + i] =
            int64_t{left.places[candidates.first[pair]]} * n + right.places[candidates.second[pair]];
        scores_out[row * k + i] = best.scores[i];
      }
    }
  });
  return {slots, scores};
}

inline void add_scaled(float* __restrict to, const float* __restrict from, float scale, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] += scale * from[i];
}

std::tuple<Tensor, Tensor> search_backward(
    const Tensor& grad_scores_in, const Tensor& slots_in, const Tensor& queries_in, const Tensor& half_keys_in) {
  const Tensor grad_scores = grad_scores_in.contiguous(), slots = slots_in.contiguous();
  const Tensor queries = queries_in.contiguous(), half_keys = half_keys_in.contiguous();
  const int64_t tokens = slots.size(0), heads = slots.size(1), k = slots.size(2);
  const int64_t n = half_keys.size(2), width = half_keys.size(3);
  require_shape("grad_scores", grad_scores, slots.sizes());
  require_shape("queries", queries, {tokens, heads, 2 * width});
  require_shape("half_keys", half_keys, {heads, 2, n, width});
  Tensor grad_queries = at::zeros(queries.sizes(), queries.options());
  Tensor grad_half_keys = at::zeros(half_keys.sizes(), half_keys.options());
  const float *grads = grad_scores.const_data_ptr<float>(), *query = queries.const_data_ptr<float>();
  const float* keys = half_keys.const_data_ptr<float>();
  const int64_t* slot = slots.const_data_ptr<int64_t>();
  float *grad_query = grad_queries.data_ptr<float>(), *grad_keys = grad_half_keys.data_ptr<float>();
  // Each head and half has one owner, for the gradient of its keys and for its half of the queries' gradients.
  at::parallel_for(0, heads * 2, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> sums(n, 0.0f);
    std::vector<int32_t> touched(k + 1);
    std::vector<uint8_t> seen(n, 0);
    for (int64_t owner = begin; owner < end; owner++) {
      const int64_t head = owner / 2, half = owner % 2;
      const double inverse = 1.0 / static_cast<double>(n);
      for (int64_t token = 0; token < tokens; token++) {
        const int64_t row = token * heads + head;
        int64_t num_touched = 0;
        for (int64_t i = 0; i < k; i++) {
          const int64_t found = slot[row * k + i];
          TORCH_CHECK_INDEX(found >= 0 && found < n * n, "slot ", found, " lies outside the pool of ", n * n, " slots");
          // The quotient is exact in double: slots have far fewer than 53 bits, and adding 0.5 avoids whole numbers.
          const auto quotient = static_cast<int64_t>((static_cast<double>(found) + 0.5) * inverse);
          const int64_t key = half ? found - quotient * n : quotient;
          touched[num_touched] = static_cast<int32_t>(key);  // kept if it is new, without an unpredictable branch
          num_touched += !seen[key];
          seen[key] = 1;
          sums[key] += grads[row * k + i];
        }
        const int64_t place = (row * 2 + half) * width;
        for (int64_t i = 0; i < num_touched; i++) {
          const int64_t key = touched[i], key_place = (owner * n + key) * width;
          add_scaled(grad_query + place, keys + key_place, sums[key], width);
          add_scaled(grad_keys + key_place, query + place, sums[key], width);
          sums[key] = 0.0f;
          seen[key] = 0;
        }
      }
    }
  });
  return {grad_queries, grad_half_keys};
}

// ---------------------------------------------------------------------------------------------------------------------
// Lookups sorted by slot

struct Lookup {
  uint32_t slot, place;
};

// A stable radix sort by slot; places must ascend. The cost depends on the lookups and the bits of the largest slot.
void sort_by_slot(std::vector<Lookup>& lookups) {
  uint32_t largest = 0;
  for (const Lookup& lookup : lookups) largest = std::max(largest, lookup.slot);
  int bits = 1;
  while (bits < 32 && largest >> bits) bits++;
  const int passes = (bits + 10) / 11, digit = (bits + passes - 1) / passes;
  std::vector<Lookup> other(lookups.size());
  std::vector<size_t> starts(size_t{1} << digit);
  const uint32_t mask = (uint32_t{1} << digit) - 1;
  for (int pass = 0; pass < passes; pass++) {
    const int shift = pass * digit;
    std::fill(starts.begin(), starts.end(), 0);
    for (const Lookup& lookup : lookups) starts[lookup.slot >> shift & mask]++;
    size_t total = 0;
    for (size_t& start : starts) {
      const size_t count = start;
      start = total;
      total += count;
    }
    for (const Lookup& lookup : lookups) other[starts[lookup.slot >> shift & mask]++] = lookup;
    lookups.swap(other);
  }
}

struct Grouped {
  std::vector<Lookup> lookups;
  std::vector<size_t> starts;  // start of each slot's run, and the end of the last one

  int64_t num_slots() const { return static_cast<int64_t>(starts.size()) - 1; }
  uint32_t slot(int64_t i) const { return lookups[starts[i]].slot; }

  explicit Grouped(std::vector<Lookup> unsorted) : lookups(std::move(unsorted)) {
    sort_by_slot(lookups);
    for (size_t i = 0; i < lookups.size(); i++)
      if (i == 0 || lookups[i].slot != lookups[i - 1].slot) starts.push_back(i);
    starts.push_back(lookups.size());
  }

  Tensor slots() const {
    Tensor result = at::empty({num_slots()}, at::kLong);
    int64_t* to = result.data_ptr<int64_t>();
    for (int64_t i = 0; i < num_slots(); i++) to[i] = slot(i);
    return result;
  }

  // Divides the slots into parts with about equally many lookups, one per thread.
  template <typename Work>
  void in_parallel(const Work& work) const {
    const int64_t threads = std::max<int64_t>(1, at::get_num_threads());
    at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      const auto border = [&](int64_t part) {
        const size_t lookup = lookups.size() * part / threads;
        return static_cast<int64_t>(std::lower_bound(starts.begin(), starts.end() - 1, lookup) - starts.begin());
      };
      work(border(begin), border(end));
    });
  }
};

std::vector<Lookup> lookups_of(const Tensor& slots, int64_t num_slots) {
  const int64_t n = slots.numel(), most = int64_t{1} << 32;
  TORCH_CHECK_VALUE(n < most, n, " reads at once are more than the kernel can number; split the batch");
  const int64_t* from = slots.const_data_ptr<int64_t>();
  std::vector<Lookup> lookups(n);
  for (int64_t i = 0; i < n; i++) {
    TORCH_CHECK_INDEX(
        from[i] >= 0 && from[i] < num_slots, "slot ", from[i], " lies outside the table of ", num_slots,
        " slots; slots are counted from 0");
    lookups[i] = {static_cast<uint32_t>(from[i]), static_cast<uint32_t>(i)};
  }
  return lookups;
}

std::tuple<Tensor, Tensor> count(const Tensor& slots) {
  const Grouped grouped(lookups_of(slots.contiguous(), int64_t{1} << 32));
  Tensor counts = at::empty({grouped.num_slots()}, at::kLong);
  int64_t* to = counts.data_ptr<int64_t>();
  for (int64_t i = 0; i < grouped.num_slots(); i++)
    to[i] = static_cast<int64_t>(grouped.starts[i + 1] - grouped.starts[i]);
  return {grouped.slots(), counts};
}

// ---------------------------------------------------------------------------------------------------------------------
// The weighted read

constexpr int64_t CACHE_LINE = 64;
constexpr int64_t AHEAD = 8;

template <typename T>
inline void prefetch(const T* row, int64_t n) {
  const char* from = reinterpret_cast<const char*>(row);
  for (int64_t byte = 0; byte < n * static_cast<int64_t>(sizeof(T)); byte += CACHE_LINE) __builtin_prefetch(from + byte);
}

inline float widen(float value) { return value; }
inline float widen(BFloat16 value) {
  uint32_t bits = uint32_t{value.x} << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}
inline float widen(Half value) { return static_cast<float>(value); }

// sum[i] += weight * row[i]
template <typename T>
inline void add_widened(float* __restrict sum, const T* __restrict row, float weight, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) sum[i] += weight * widen(row[i]);
}

template <typename T>
inline void widen_row(float* __restrict to, const T* __restrict row, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = widen(row[i]);
}

#if defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)

// Compilers do not generate the instruction that widens eight halves at once.
inline __m256 widen_lanes(const Half* row) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row)));
}

inline void add_widened(float* __restrict sum, const Half* __restrict row, float weight, int64_t n) {
  const __m256 weights = _mm256_set1_ps(weight);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    _mm256_storeu_ps(sum + i, _mm256_fmadd_ps(weights, widen_lanes(row + i), _mm256_loadu_ps(sum + i)));
  for (; i < n; i++) sum[i] += weight * widen(row[i]);
}

inline void widen_row(float* __restrict to, const Half* __restrict row, int64_t n) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) _mm256_storeu_ps(to + i, widen_lanes(row + i));
  for (; i < n; i++) to[i] = widen(row[i]);
}

#endif

template <typename T>
void read_tokens(
    const T* values, const int64_t* slots, const float* weights, int64_t reads, int64_t width, int64_t begin,
    int64_t end, T* output) {
  std::vector<float> sum(width);
  float* __restrict total = sum.data();
  const int64_t* last = slots + end * reads;
  constexpr int64_t LINE = CACHE_LINE / sizeof(T);
  for (int64_t token = begin; token < end; token++) {
    const int64_t* slot = slots + token * reads;
    std::fill(sum.begin(), sum.end(), 0.0f);
    for (int64_t r = 0; r < reads; r++) {
      const T* row = values + slot[r] * width;
      const T* later = slot + r + AHEAD < last ? values + slot[r + AHEAD] * width : row;
      const float weight = weights[token * reads + r];
      int64_t i = 0;
      for (; i + LINE <= width; i += LINE) {
        __builtin_prefetch(later + i);
        add_widened(total + i, row + i, weight, LINE);
      }
      for (; i < width; i++) total[i] += weight * widen(row[i]);
    }
    T* to = output + token * width;
    for (int64_t i = 0; i < width; i++) to[i] = static_cast<T>(total[i]);
  }
}

void require_slots(const Tensor& slots, int64_t num_slots) {
  const int64_t* from = slots.const_data_ptr<int64_t>();
  for (int64_t i = 0, n = slots.numel(); i < n; i++)
    TORCH_CHECK_INDEX(
        from[i] >= 0 && from[i] < num_slots, "slot ", from[i], " lies outside the table of ", num_slots,
        " slots; slots are counted from 0");
}

template <typename Work>
void for_table_type(const Tensor& values, const Work& work) {
  switch (values.scalar_type()) {
    case at::kFloat: return work(values.const_data_ptr<float>());
    case at::kBFloat16: return work(values.const_data_ptr<BFloat16>());
    case at::kHalf: return work(values.const_data_ptr<Half>());
    default: TORCH_CHECK_TYPE(false, "the table is ", values.scalar_type(), "; it must be float32, bfloat16 or float16");
  }
}

// For 16-bit tables. On fp32 tables torch's own embedding_bag is as fast as possible; on these it rounds the weights.
Tensor read_values(const Tensor& values_in, const Tensor& slots_in, const Tensor& weights_in) {
  const Tensor values = values_in.contiguous(), slots = slots_in.contiguous(), weights = weights_in.contiguous();
  const int64_t tokens = slots.size(0), reads = slots.size(1), width = values.size(1);
  require_shape("weights", weights, slots.sizes());
  require_slots(slots, values.size(0));
  Tensor output = at::empty({tokens, width}, values.options());
  for_table_type(values, [&](const auto* table) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(table)>>;
    T* to = output.data_ptr<T>();
    at::parallel_for(0, tokens, 8, [&](int64_t begin, int64_t end) {
      read_tokens(
          table, slots.const_data_ptr<int64_t>(), weights.const_data_ptr<float>(), reads, width, begin, end, to);
    });
  });
  return output;
}

inline float dot(const float* __restrict a, const float* __restrict b, int64_t n) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

inline double squared_norm(const float* row, int64_t n) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += static_cast<double>(row[i]) * row[i];
  return sum;
}

// The gradient of a row and of its weights, in one pass over its lookups.
inline void row_and_weights(
    float* __restrict to, const float* __restrict row, const float* __restrict grad, float weight, float* weight_gradient,
    int64_t n) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) {
    to[i] += weight * grad[i];
    sum += row[i] * grad[i];
  }
  *weight_gradient = sum;
}

// The same for two lookups of the row at once, so that its gradient passes through the registers half as often.
inline void row_and_two_weights(
    float* __restrict to, const float* __restrict row, const float* __restrict first, const float* __restrict second,
    float first_weight, float second_weight, float* first_gradient, float* second_gradient, int64_t n) {
  float first_sum = 0.0f, second_sum = 0.0f;
#pragma omp simd reduction(+ : first_sum, second_sum)
  for (int64_t i = 0; i < n; i++) {
    to[i] = to[i] + first_weight * first[i] + second_weight * second[i];
    first_sum += row[i] * first[i];
    second_sum += row[i] * second[i];
  }
  *first_gradient = first_sum;
  *second_gradient = second_sum;
}

template <typename T>
struct AsFloat {
  std::vector<float> buffer;
  explicit AsFloat(int64_t width) : buffer(width) {}
  const float* operator()(const T* row, int64_t width) {
    widen_row(buffer.data(), row, width);
    return buffer.data();
  }
};
template <>
struct AsFloat<float> {
  explicit AsFloat(int64_t) {}
  const float* operator()(const float* row, int64_t) { return row; }
};

// Returns [accessed], [accessed, width], [accessed], [tokens, reads]; the last is empty if it is not wanted.
std::tuple<Tensor, Tensor, Tensor, Tensor> read_backward(
    const Tensor& grad_in, const Tensor& values_in, const Tensor& slots_in, const Tensor& weights_in,
    bool weight_gradient) {
  const Tensor grad = grad_in.contiguous(), values = values_in.contiguous();
  const Tensor slots = slots_in.contiguous(), weights = weights_in.contiguous();
  const int64_t reads = slots.size(1), width = values.size(1);
  require_shape("weights", weights, slots.sizes());
  require_shape("grad_output", grad, {slots.size(0), width});
  const Grouped grouped(lookups_of(slots, values.size(0)));
  Tensor rows = at::empty({grouped.num_slots(), width}, weights.options());
  Tensor squares = at::empty({grouped.num_slots()}, weights.options().dtype(at::kDouble));
  double* to_squares = squares.data_ptr<double>();
  Tensor through_weights = at::empty(weight_gradient ? weights.sizes() : at::IntArrayRef{0}, weights.options());
  const float *output_grad = grad.const_data_ptr<float>(), *weight = weights.const_data_ptr<float>();
  float *to = rows.data_ptr<float>(), *to_weights = through_weights.data_ptr<float>();
  const auto divisor = static_cast<uint32_t>(std::max<int64_t>(reads, 1));
  for_table_type(values, [&](const auto* table) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(table)>>;
    grouped.in_parallel([&](int64_t begin, int64_t end) {
      AsFloat<T> as_float(width);
      for (int64_t i = begin; i < end; i++) {
        if (weight_gradient && i + 4 < end) prefetch(table + int64_t{grouped.slot(i + 4)} * width, width);
        const float* row = weight_gradient ? as_float(table + int64_t{grouped.slot(i)} * width, width) : nullptr;
        float* mine = to + i * width;
        std::memset(mine, 0, width * sizeof(float));
        const auto grad_at = [&](size_t l) {
          return output_grad + int64_t{grouped.lookups[l].place / divisor} * width;
        };
        size_t l = grouped.starts[i];
        for (; weight_gradient && l + 2 <= grouped.starts[i + 1]; l += 2) {
          for (size_t later = l + 4; later < std::min(l + 6, grouped.lookups.size()); later++)
            prefetch(grad_at(later), width);
          const uint32_t first = grouped.lookups[l].place, second = grouped.lookups[l + 1].place;
          row_and_two_weights(
              mine, row, grad_at(l), grad_at(l + 1), weight[first], weight[second], to_weights + first,
              to_weights + second, width);
        }
        for (; l < grouped.starts[i + 1]; l++) {
          const uint32_t place = grouped.lookups[l].place;
          const float* token_grad = grad_at(l);
          if (l + 4 < grouped.lookups.size()) prefetch(grad_at(l + 4), width);
          if (weight_gradient)
            row_and_weights(mine, row, token_grad, weight[place], to_weights + place, width);
          else
            add_scaled(mine, token_grad, weight[place], width);
        }
        to_squares[i] = squared_norm(mine, width);
      }
    });
  });
  return {grouped.slots(), rows, squares, through_weights};
}

Tensor read_backward_of_weights(const Tensor& grad_in, const Tensor& values_in, const Tensor& slots_in) {
  const Tensor grad = grad_in.contiguous(), values = values_in.contiguous(), slots = slots_in.contiguous();
  const int64_t tokens = slots.size(0), reads = slots.size(1), width = values.size(1);
  require_shape("grad_output", grad, {tokens, width});
  require_slots(slots, values.size(0));
  Tensor through_weights = at::empty({tokens, reads}, grad.options());
  const float* output_grad = grad.const_data_ptr<float>();
  const int64_t* slot = slots.const_data_ptr<int64_t>();
  float* to = through_weights.data_ptr<float>();
  for_table_type(values, [&](const auto* table) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(table)>>;
    at::parallel_for(0, tokens, 8, [&](int64_t begin, int64_t end) {
      AsFloat<T> as_float(width);
      for (int64_t i = begin * reads; i < end * reads; i++) {
        if (i + AHEAD < end * reads) prefetch(table + slot[i + AHEAD] * width, width);
        to[i] = dot(as_float(table + slot[i] * width, width), output_grad + i / reads * width, width);
      }
    });
  });
  return through_weights;
}

// Maps each of a few slots to its row. Open addressing, at most a quarter full.
class SlotIndex {
 public:
  explicit SlotIndex(const Tensor& slots) {
    const int64_t n = slots.numel();
    while ((int64_t{1} << bits_) < 4 * n) bits_++;
    keys_.assign(size_t{1} << bits_, -1);
    rows_.resize(keys_.size());
    const int64_t* from = slots.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < n; i++) {
      size_t at = hash(from[i]);
      while (keys_[at] >= 0) at = (at + 1) & (keys_.size() - 1);
      keys_[at] = from[i];
      rows_[at] = static_cast<uint32_t>(i);
    }
  }

  // The slot's row, or -1 if it is none of the slots.
  int64_t row(int64_t slot) const {
    for (size_t at = hash(slot);; at = (at + 1) & (keys_.size() - 1)) {
      if (keys_[at] < 0) return -1;  // tested first, because a negative slot must not match an empty key
      if (keys_[at] == slot) return rows_[at];
    }
  }

 private:
  size_t hash(int64_t slot) const { return static_cast<uint64_t>(slot) * 0x9E3779B97F4A7C15ull >> (64 - bits_); }
  int bits_ = 4;
  std::vector<int64_t> keys_;
  std::vector<uint32_t> rows_;
};

Tensor read_backward_of_rows(
    const Tensor& grad_in, const Tensor& slots_in, const Tensor& weights_in, const Tensor& row_slots_in) {
  const Tensor grad = grad_in.contiguous(), slots = slots_in.contiguous(), weights = weights_in.contiguous();
  const Tensor row_slots = row_slots_in.contiguous();
  const int64_t reads = slots.size(1), width = grad.size(1);
  require_shape("weights", weights, slots.sizes());
  require_shape("grad_output", grad, {slots.size(0), width});
  TORCH_CHECK_VALUE(slots.numel() < int64_t{1} << 32, slots.numel(), " reads at once are more than the kernel can number; split the batch");
  Tensor rows = at::zeros({row_slots.numel(), width}, grad.options());
  const SlotIndex index(row_slots);
  const int64_t* slot = slots.const_data_ptr<int64_t>();
  std::vector<Lookup> lookups;
  for (int64_t i = 0, n = slots.numel(); i < n; i++) {
    const int64_t row = index.row(slot[i]);
    if (row >= 0) lookups.push_back({static_cast<uint32_t>(row), static_cast<uint32_t>(i)});
  }
  const Grouped grouped(std::move(lookups));
  const float *output_grad = grad.const_data_ptr<float>(), *weight = weights.const_data_ptr<float>();
  float* to = rows.data_ptr<float>();
  grouped.in_parallel([&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      for (size_t l = grouped.starts[i]; l < grouped.starts[i + 1]; l++) {
        const uint32_t place = grouped.lookups[l].place;
        add_scaled(to + int64_t{grouped.slot(i)} * width, output_grad + place / reads * width, weight[place], width);
      }
  });
  return rows;
}

std::tuple<Tensor, Tensor> merge_rows(const std::vector<Tensor>& slots, const std::vector<Tensor>& rows) {
  std::vector<Lookup> lookups;
  std::vector<const float*> row_of;
  for (size_t part = 0; part < slots.size(); part++) {
    require_shape("rows", rows[part], {slots[part].numel(), rows[0].size(1)});
    const int64_t* slot = slots[part].const_data_ptr<int64_t>();
    const float* from = rows[part].const_data_ptr<float>();
    for (int64_t i = 0; i < slots[part].numel(); i++) {
      lookups.push_back({static_cast<uint32_t>(slot[i]), static_cast<uint32_t>(row_of.size())});
      row_of.push_back(from + i * rows[part].size(1));
    }
  }
  const int64_t width = rows[0].size(1);
  const Grouped grouped(std::move(lookups));
  Tensor merged = at::empty({grouped.num_slots(), width}, rows[0].options());
  float* to = merged.data_ptr<float>();
  grouped.in_parallel([&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      size_t l = grouped.starts[i];
      std::memcpy(to + i * width, row_of[grouped.lookups[l].place], width * sizeof(float));
      for (l++; l < grouped.starts[i + 1]; l++)
        add_scaled(to + i * width, row_of[grouped.lookups[l].place], 1.0f, width);
    }
  });
  return {grouped.slots(), merged};
}

Tensor squared_norms(const Tensor& rows_in) {
  const Tensor rows = rows_in.contiguous();
  const int64_t width = rows.size(1);
  Tensor squares = at::empty({rows.size(0)}, rows.options().dtype(at::kDouble));
  const float* from = rows.const_data_ptr<float>();
  double* to = squares.data_ptr<double>();
  at::parallel_for(0, rows.size(0), 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) to[i] = squared_norm(from + i * width, width);
  });
  return squares;
}

template <typename T>
void adam_row(
    T* __restrict value, float* __restrict first, float* __restrict second, const float* __restrict grad, int64_t width,
    float scale, float rest1, float beta2, float rest2, float rate, float correction, float epsilon) {
#pragma omp simd
  for (int64_t i = 0; i < width; i++) {
    const float g = grad[i] * scale;
    first[i] = first[i] + (g - first[i]) * rest1;
    second[i] = second[i] * beta2 + rest2 * g * g;
    value[i] = static_cast<T>(widen(value[i]) - rate * first[i] / (std::sqrt(second[i]) / correction + epsilon));
  }
}

void lazy_adam_step(
    const Tensor& values, const Tensor& first, const Tensor& second, const Tensor& slots_in, const Tensor& rows_in,
    double scale, double beta1, double beta2, double rate, double correction, double epsilon) {
  TORCH_CHECK_VALUE(
      values.is_contiguous() && first.is_contiguous() && second.is_contiguous(),
      "a table that is moved in place must be contiguous");
  const Tensor slots = slots_in.contiguous(), rows = rows_in.contiguous();
  require_slots(slots, values.size(0));
  const int64_t width = values.size(1);
  require_shape("first_moments", first, values.sizes());
  require_shape("second_moments", second, values.sizes());
  require_shape("rows", rows, {slots.numel(), width});
  const int64_t* slot = slots.const_data_ptr<int64_t>();
  const float* grad = rows.const_data_ptr<float>();
  float *m = first.data_ptr<float>(), *v = second.data_ptr<float>();
  for_table_type(values, [&](const auto* table) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(table)>>;
    T* value = values.data_ptr<T>();
    at::parallel_for(0, slots.numel(), 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        if (i + 2 < end) {
          prefetch(value + slot[i + 2] * width, width);
          prefetch(m + slot[i + 2] * width, width);
          prefetch(v + slot[i + 2] * width, width);
        }
        adam_row(
            value + slot[i] * width, m + slot[i] * width, v + slot[i] * width, grad + i * width, width,
            static_cast<float>(scale), static_cast<float>(1.0 - beta1), static_cast<float>(beta2),
            static_cast<float>(1.0 - beta2), static_cast<float>(rate), static_cast<float>(correction),
            static_cast<float>(epsilon));
      }
    });
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// The second moment of a sparse matrix

Tensor second_moment(const Tensor& rows_in, const Tensor& weights_in, const Tensor& starts_in, int64_t num_rows) {
  const Tensor rows = rows_in.contiguous(), weights = weights_in.contiguous(), starts = starts_in.contiguous();
  const int64_t entries = rows.numel(), n = starts.numel() - 1;
  require_shape("weights", weights, {entries});
  const int32_t* row = rows.const_data_ptr<int32_t>();
  const float* weight = weights.const_data_ptr<float>();
  const int64_t* start = starts.const_data_ptr<int64_t>();
  TORCH_CHECK_VALUE(n >= 0 && start[0] == 0 && start[n] == entries, "starts must lead from 0 to the number of entries");
  std::vector<int64_t> first(num_rows + 1, 0);  // of each row's entries, once they are grouped by row
  for (int64_t i = 0; i < entries; i++) {
    TORCH_CHECK_INDEX(row[i] >= 0 && row[i] < num_rows, "row ", row[i], " lies outside the matrix of ", num_rows, " rows");
    first[row[i] + 1]++;
  }
  for (int64_t r = 0; r < num_rows; r++) first[r + 1] += first[r];
  struct Entry {
    int32_t column;
    float weight;
  };
  struct Span {
    int64_t begin, end;
  };
  std::vector<Entry> by_row(entries);
  std::vector<Span> partners(entries);  // of each entry: itself and those after it in its row
  std::vector<int64_t> next(first.begin(), first.end() - 1);
  for (int64_t c = 0; c < n; c++)
    for (int64_t i = start[c]; i < start[c + 1]; i++) {
      partners[i] = {next[row[i]]++, first[row[i] + 1]};
      by_row[partners[i].begin] = {static_cast<int32_t>(c), weight[i]};
    }
  Tensor moment = at::zeros({n, n}, at::kDouble);
  double* to = moment.data_ptr<double>();
  at::parallel_for(0, n, 16, [&](int64_t begin, int64_t end) {  // the columns from the entry's own on; the rest mirrors
    for (int64_t c = begin; c < end; c++)
      for (int64_t i = start[c]; i < start[c + 1]; i++) {
        const double own = weight[i];
        for (int64_t p = partners[i].begin; p < partners[i].end; p++) to[c * n + by_row[p].column] += own * by_row[p].weight;
      }
  });
  constexpr int64_t TILE = 32;  // rows and columns whose lines stay in the cache while they are mirrored
  at::parallel_for(0, (n + TILE - 1) / TILE, 1, [&](int64_t begin, int64_t end) {
    for (int64_t low = begin * TILE; low < std::min(end * TILE, n); low += TILE)
      for (int64_t left = 0; left <= low; left += TILE)
        for (int64_t c = low; c < std::min(low + TILE, n); c++)
          for (int64_t other = left; other < std::min(left + TILE, c); other++) to[c * n + other] = to[other * n + c];
  });
  return moment;
}

}  // namespace

TORCH_LIBRARY(memlm, m) {
  const auto on_cpu = [](auto* kernel) { return torch::dispatch(c10::DispatchKey::CPU, kernel); };
  m.def("search", on_cpu(&search));
  m.def("search_backward", on_cpu(&search_backward));
  m.def("count", on_cpu(&count));
  m.def("read", on_cpu(&read_values));
  m.def("read_backward", on_cpu(&read_backward));
  m.def("read_backward_of_weights", on_cpu(&read_backward_of_weights));
  m.def("read_backward_of_rows", on_cpu(&read_backward_of_rows));
  m.def("merge_rows", on_cpu(&merge_rows));
  m.def("squared_norms", on_cpu(&squared_norms));
  m.def("second_moment", on_cpu(&second_moment));
  m.def("lazy_adam_step(Tensor(a!) values, Tensor(b!) first_moments, Tensor(c!) second_moments, Tensor slots, Tensor rows, "
        "float scale, float beta1, float beta2, float rate, float correction, float epsilon) -> ()", on_cpu(&lazy_adam_step));
}
