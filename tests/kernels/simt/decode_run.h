// Runs of decode attention for its tests, over any kind of paged KV.
#pragma once
#include <gmock/gmock.h>

#include "kernels/decode_attention.h"
#include "tests/kernels/simt/attention_inputs.h"

namespace thermocline {

/// Queries of T over `Sequences` (PagedSequences<T>, or of codes), all in device memory.
template <class T, class Sequences>
struct DecodeRun {
  Sequences sequences;
  std::vector<T> queries;
  DeviceArray<typename Sequences::Stored> pool;
  DeviceArray<T> q, out;
  DeviceArray<int32_t> tables, lengths;
  DeviceArray<float> workspace;
  DecodeAttentionArgs args;

  template <class... More>
  explicit DecodeRun(const AttentionCase& c, More... more)
      : sequences(c, c.head_dim + c.group, more...),
        queries(RandomNumbers<T>(sequences.random(),
                                 static_cast<size_t>(c.sequences()) * c.heads() * c.head_dim, 2)),
        pool(sequences.pool()),
        q(queries),
        out(queries.size()),
        tables(sequences.tables()),
        lengths(std::vector<int32_t>(c.lengths.begin(), c.lengths.end())),
        workspace(DecodeWorkspaceFloats(c.sequences(), c.heads(), c.head_dim, c.splits)) {
    const int attended = c.window > 0 ? std::min(c.longest(), c.window + 15) : c.longest();
    const int tiles = (attended - 1) / 16 + 1;
    args = {.out = out.data(),
            .q = q.data(),
            .kv = sequences.View(pool.data()),
            .tables = tables.data(),
            .lengths = lengths.data(),
            .workspace = workspace.data(),
            .table_stride = sequences.table_stride(),
            .sequences = c.sequences(),
            .heads = c.heads(),
            .kv_heads = c.kv_heads,
            .head_dim = c.head_dim,
            .splits = c.splits,
            .split_tokens = ((tiles - 1) / c.splits + 1) * 16,
            .window = c.window,
            .scale = static_cast<float>(c.scale()),
            .softcap = c.softcap,
            .type = kNumberType<T>,
            .kv_dtype = sequences.geometry().dtype};
  }
};

/// A run against float64, under every schedule.
template <class T, class Sequences, class... More>
void CheckDecode(const AttentionCase& c, More... more) {
  DecodeRun<T, Sequences> run(c, more...);
  std::vector<double> expected(run.queries.size());
  for (int s = 0; s < c.sequences(); ++s) {
    for (int head = 0; head < c.heads() && c.lengths[s] > 0; ++head) {
      const size_t row = (static_cast<size_t>(s) * c.heads() + head) * c.head_dim;
      run.sequences.Attend(run.queries.data() + row, s, c.lengths[s] - 1, head / c.group,
                           expected.data() + row);
    }
  }
  ForEachSchedule([&] {
    run.out.Fill(0xff);
    run.workspace.Fill(0xff);
    ASSERT_EQ(LaunchDecodeAttention(run.args, nullptr), CudaError::kSuccess);
    ExpectAttentionClose(run.out.ToHost(), expected);
  });
}

/// Runs the kernel and holds its traffic against `least` bytes of KV: it reads hardly more, in
/// whole sectors, and meets no bank conflict. Only in checked programs.
template <class Run>
void ExpectLeanTraffic(Run& run, double least) {
  simt::CollectAccesses(true);
  simt::TakeAccessSites();
  ASSERT_EQ(LaunchDecodeAttention(run.args, nullptr), CudaError::kSuccess);
  simt::CollectAccesses(false);
  uint64_t read = 0;
  for (const simt::AccessSite& site : simt::TakeAccessSites()) {
    if (site.shared) {
      EXPECT_EQ(site.conflict_factor(), 1)
          << (site.write ? "write" : "read") << " by " << site.warp_accesses << " warps";
    } else if (!site.write) {
      read += 32 * site.sectors;
      // KV comes in whole sectors; what else is read (lengths, tables) is a word for many lanes.
      if (static_cast<double>(site.bytes) >= least / 50) {
        EXPECT_GE(site.sector_efficiency(), 1.0);
      }
    }
  }
  std::printf("read %.1f KB, at least %.1f KB\n", static_cast<double>(read) / 1024, least / 1024);
  EXPECT_LE(static_cast<double>(read), 1.07 * least);
}

}  // namespace thermocline
