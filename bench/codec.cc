// What it costs to keep a block at rest, in one process and without a disk: every pair of codec and
// cipher, into an envelope and back out of it, beside a memcpy of the same bytes in the same run.
// Bytes are random, which no codec makes smaller, or f16 numbers of a normal law, as the K and V of
// a model are. Buffers are larger than caches together. Last, what an index of many blocks costs at
// a start: their records, taken out of their envelopes.
#include <time.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/units.h"
#include "bench/report.h"
#include "hashing/checksum.h"
#include "tiers/block_envelope.h"

namespace thermocline::bench {
namespace {

using Bytes = std::vector<std::byte>;

constexpr int kRounds = 5;

double CpuSeconds() {
  timespec used;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / 1e9;
}

/// The half that is nearest to a number of ordinary size.
uint16_t Half(float value) {
  const float size = std::fabs(value);
  if (size < 6.2e-5f) return 0;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits += 0x1000;
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | (((bits >> 13) - (112 << 10)) & 0x7fff));
}

Bytes Payload(uint64_t bytes, bool normals, uint64_t seed) {
  Bytes payload(bytes);
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  for (uint64_t at = 0; at < bytes; at += 2) {
    const uint16_t value = normals ? Half(normal(random)) : static_cast<uint16_t>(random());
    std::memcpy(payload.data() + at, &value, sizeof value);
  }
  return payload;
}

BlockRecord RecordOf(uint64_t id, std::span<const std::byte> payload) {
  BlockRecord record;
  record.id = id;
  record.depth = 1;
  record.parent_id = id + 1;
  record.payload_bytes = payload.size();
  record.payload_checksum = Checksum(payload);
  record.Seal();
  return record;
}

std::shared_ptr<const KeySource> Keys() {
  auto ring = KeyRing::Parse("1 " + std::string(64, '5'), "bench");
  return std::make_shared<const KeySource>(*std::move(ring));
}

/// Over some rounds, of which the middle one counts.
struct Cost {
  /// Runs `body` over `bytes` once.
  template <class Body>
  void Round(uint64_t bytes, Body&& body) {
    const double gib = static_cast<double>(bytes) / static_cast<double>(GiB);
    const double before = CpuSeconds();
    rates.push_back(gib / Milliseconds(body) * 1e3);
    cpu.push_back((CpuSeconds() - before) / gib);
  }
  double gib_per_s() const { return Median(rates); }
  double cpu_s_per_gib() const { return Median(cpu); }

  std::vector<double> rates, cpu;
};

/// The blocks of one size and kind, and room for each of them.
struct Blocks {
  Blocks(uint64_t block_bytes, bool normals, uint64_t all_bytes) : bytes(all_bytes) {
    for (uint64_t at = 0, id = 1; at < all_bytes; at += block_bytes, ++id) {
      payloads.push_back(Payload(block_bytes, normals, id));
      records.push_back(RecordOf(id, payloads.back()));
      rooms.emplace_back(BlockEnvelope::MostBytes(records.back()));
      back.emplace_back(block_bytes);
    }
  }
  uint64_t bytes;
  std::vector<Bytes> payloads, rooms, back;
  std::vector<BlockRecord> records;
};

/// In turns with the memcpy, as a shared machine is now so fast and now so.
absl::Status MeasurePair(Blocks& blocks, const std::string& name, BlockEnvelope::Options options,
                         Report& report) {
  const BlockEnvelope envelope(std::move(options));
  absl::Status status;
  std::vector<uint64_t> sizes(blocks.payloads.size());
  Cost copy, in, out;
  for (int round = 0; round < kRounds; ++round) {
    copy.Round(blocks.bytes, [&] {
      for (size_t i = 0; i < sizes.size(); ++i) {
        std::memcpy(blocks.rooms[i].data(), blocks.payloads[i].data(), blocks.payloads[i].size());
      }
    });
    in.Round(blocks.bytes, [&] {
      for (size_t i = 0; i < sizes.size(); ++i) {
        const auto bytes = envelope.Encode(blocks.records[i], blocks.payloads[i], blocks.rooms[i]);
        status.Update(bytes.status());
        sizes[i] = bytes.ok() ? *bytes : 0;
      }
    });
    out.Round(blocks.bytes, [&] {
      for (size_t i = 0; i < sizes.size(); ++i) {
        const std::span<const std::byte> stored = std::span(blocks.rooms[i]).first(sizes[i]);
        status.Update(envelope.Decode({blocks.records[i].id, 0}, stored, blocks.back[i]).status());
      }
    });
  }
  TC_RETURN_IF_ERROR(status);
  if (blocks.back != blocks.payloads) return absl::InternalError("other bytes came out");
  report.Add({"memcpy beside " + name, "cpu", copy.cpu_s_per_gib(), "s/GiB", "", 0});
  for (const auto& [way, cost] : {std::pair("encode/", &in), std::pair("decode/", &out)}) {
    report.Add({way + name, "throughput", cost->gib_per_s(), "GiB/s", "memcpy",
                cost->gib_per_s() / copy.gib_per_s()});
    report.Add({way + name, "cpu", cost->cpu_s_per_gib(), "s/GiB", "memcpy",
                cost->cpu_s_per_gib() / copy.cpu_s_per_gib()});
  }
  const uint64_t stored = std::accumulate(sizes.begin(), sizes.end(), uint64_t{0});
  report.Add({"stored/" + name, "size", static_cast<double>(stored), "bytes", "payload",
              static_cast<double>(stored) / static_cast<double>(blocks.bytes)});
  return absl::OkStatus();
}

/// Microseconds a record, of as many as are in an index.
absl::Status MeasureRecords(uint32_t count, Report& report) {
  const Bytes payload(16);
  double plain_us = 0;
  for (const bool encrypted : {false, true}) {
    const BlockEnvelope envelope({.keys = encrypted ? Keys() : nullptr, .context = "default"});
    std::vector<std::string> envelopes(count);
    absl::Status status;
    for (uint32_t i = 0; i < count; ++i) {
      status.Update(envelope.EncodeRecord(RecordOf(i + 1, payload), envelopes[i]));
    }
    std::vector<double> times;
    for (int round = 0; round < kRounds; ++round) {
      times.push_back(Milliseconds([&] {
        for (uint32_t i = 0; i < count; ++i) {
          const std::string& stored = envelopes[i];
          status.Update(
              envelope.DecodeRecord({i + 1, 0}, std::as_bytes(std::span(stored))).status());
        }
      }));
    }
    TC_RETURN_IF_ERROR(status);
    const double us = Median(std::move(times)) * 1e3 / count;
    if (!encrypted) plain_us = us;
    report.Add({std::string("records/") + (encrypted ? "gcm" : "none"), "latency", us, "us",
                encrypted ? "records/none" : "", encrypted ? us / plain_us : 0});
  }
  return absl::OkStatus();
}

absl::Status Run(const Arguments& arguments, Report& report) {
  const uint64_t all_bytes = arguments.quick ? 2 * MiB : 64 * MiB;
  for (const bool normals : {false, true}) {
    for (const uint64_t block_bytes : {64 * KiB, MiB}) {
      Blocks blocks(block_bytes, normals, all_bytes);
      const std::string suffix =
          std::string(normals ? "f16" : "random") + "/bytes:" + std::to_string(block_bytes);
      for (const Codec codec : {Codec::kNone, Codec::kZstd}) {
        for (const bool encrypted : {false, true}) {
          const std::string name = std::string(codec == Codec::kZstd ? "zstd" : "none") + "_" +
                                   (encrypted ? "gcm" : "none") + "/" + suffix;
          TC_RETURN_IF_ERROR(MeasurePair(
              blocks, name,
              {.codec = codec, .keys = encrypted ? Keys() : nullptr, .context = "default"},
              report));
        }
      }
    }
  }
  return MeasureRecords(arguments.quick ? 1000 : 200'000, report);
}

}  // namespace
}  // namespace thermocline::bench

int main(int argc, char** argv) {
  return thermocline::bench::RunBenchmark(argc, argv, thermocline::bench::Run);
}
