// Everything that a disk can do to the daemon, done to the real one under a real client, and a
// table of it in Markdown: what was done, what must come of it, what did. In each: no wrong byte,
// no end of the daemon, no wait of a hit in memory for the disk; and /readyz, a metric and a line
// of the log tell what is lost. Exit code 1 when a row is not right.
//
//   disk_faults_test [--short] [--only TEXT] [--jobs N]     --short: each damage at one place of
//   its file
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <future>
#include <iterator>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/units.h"
#include "tests/crash/loop_disk.h"
#include "tests/faults/damage.h"
#include "tests/faults/medium_switch.h"
#include "tests/faults/patient.h"

namespace thermocline::faults {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr uid_t kNobody = 65534;
// The daemon waits ten seconds for a write, and a lease is good for ten.
constexpr milliseconds kHang{12'000};
constexpr double kCallsMs = 60'000;  // of many together; three that hang take longer

struct Scale {
  bool is_short = false;
  std::vector<double> Places() const {
    return is_short ? std::vector<double>{0.5} : std::vector<double>{0.05, 0.5, 0.95};
  }
};

struct Row {
  std::string seen;
  bool right = false;
  bool skipped = false;
};

Row Result(const Findings& findings) {
  return {.seen = findings.text(), .right = findings.right()};
}

Row Skipped(const std::string& why) { return {.seen = why, .right = true, .skipped = true}; }

std::string Binaries() {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path().string();
}

/// The read deadline is one that only a read of a disk that hangs meets, however busy the machine.
SubjectOptions Plain(const std::string& read_deadline = "10m") {
  return {.binaries = Binaries(),
          .cold_capacity = "1GiB",
          .more = {"--cold-scrub-rate", "0", "--cold-read-deadline", read_deadline}};
}

SubjectOptions On(const MediumSwitch& medium, const std::string& read_deadline = "10m") {
  SubjectOptions options = Plain(read_deadline);
  options.before = medium.Command(options.binaries);
  return options;
}

void TellValues(Findings& findings, const std::string& when, const Tally& tally, bool all_right) {
  const bool right = tally.wrong == 0 && tally.errors == 0 && (!all_right || tally.misses == 0);
  findings.Tell(right, when + tally.ToString());
}

/// All that lie on disk come back, at the latest when they are asked for again: where the deadline
/// is short a read may be late for the machine's sake.
void TellBack(Findings& findings, Patient& patient) {
  Tally tally;
  Soon(
      [&] {
        tally = patient.GetCold();
        return tally.misses == 0 || tally.wrong + tally.errors > 0;
      },
      seconds(60));
  TellValues(findings, "then on disk: ", tally, true);
}

// ---- a disk that fails under the running daemon

Row FailingReads(MediumFault fault, uint32_t delay_ms) {
  MediumSwitch medium;
  Findings findings;
  Patient patient(On(medium, "200ms"), findings);
  patient.StartProbe();
  medium.Set(fault, MediumFault::kNone, delay_ms);
  Tally tally;
  const double ms = Milliseconds([&] { tally = patient.GetCold(); });
  findings.Tell(tally.misses == kColdValues && ms < kCallsMs,
                "on disk: " + tally.ToString() + " in " + std::to_string(int(ms)) +
                    " ms, the disk was asked " + std::to_string(medium.hits()) + " times");
  patient.TellSigns("reads fail or take longer", "cold_reads_paused");
  patient.TellHitsGoOn();
  medium.Heal();
  patient.StopProbe();
  patient.TellRecovery();
  TellBack(findings, patient);
  patient.TellLives();
  return Result(findings);
}

Row EioOfReads(const Scale&) { return FailingReads(MediumFault::kError, 0); }
Row SlowReads(const Scale&) { return FailingReads(MediumFault::kSlow, 15'000); }
Row HungReads(const Scale&) { return FailingReads(MediumFault::kHang, 0); }

/// For longer than a lease is good without a sign of life, and no deadline of the daemon's ends
/// it: what waits for the disk here has not been answered when this is over.
Row HungReadsWithoutDeadline(const Scale&) {
  MediumSwitch medium;
  Findings findings;
  Patient patient(On(medium), findings);
  patient.StartProbe();
  medium.Set(MediumFault::kHang, MediumFault::kNone);
  Tally tally;
  std::thread reader([&] {
    Caller caller(patient.subject().socket());
    for (int key = 0; key < kColdValues; ++key) tally.Add(caller.Get(key));
  });
  findings.Tell(Soon([&] { return medium.hits() > 0; }, seconds(60)), "reads hang");
  std::this_thread::sleep_for(kHang);
  patient.TellHitsGoOn();
  medium.Heal();
  reader.join();
  patient.StopProbe();
  findings.Tell(tally.wrong == 0, "on disk, asked for meanwhile: " + tally.ToString());
  TellBack(findings, patient);
  patient.TellLives();
  return Result(findings);
}

Row FailingWrites(MediumFault fault, const std::string& durability) {
  MediumSwitch medium;
  Findings findings;
  SubjectOptions options = On(medium);
  options.durability = durability;
  Patient patient(options, findings);
  patient.StartProbe();
  medium.Set(MediumFault::kNone, fault);
  if (durability == "ack") {
    const absl::Status put = patient.subject().Put(500);
    findings.Tell(absl::IsAborted(put) && patient.subject().Get(500) == Got::kRight,
                  "a commit is answered " + std::string(absl::StatusCodeToString(put.code())) +
                      ", and its block is in memory");
  } else {
    patient.PutMany(false);
  }
  TellValues(findings, "on disk: ", patient.GetCold(), true);
  patient.TellSigns("cold", "cold_tier_refused");
  patient.TellHitsGoOn();
  medium.Heal();
  patient.StopProbe();
  patient.TellRecovery();
  TellBack(findings, patient);
  patient.TellLives();
  return Result(findings);
}

Row EioOfWrites(const Scale&) { return FailingWrites(MediumFault::kError, "write_back"); }
Row EioOfWritesAck(const Scale&) { return FailingWrites(MediumFault::kError, "ack"); }
Row FullDiskAck(const Scale&) { return FailingWrites(MediumFault::kNoSpace, "ack"); }

/// No sign is asked for: what is slow and done in time costs no block, so nothing is degraded.
Row SlowWrites(const Scale&) {
  MediumSwitch medium;
  Findings findings;
  Patient patient(On(medium), findings);
  patient.StartProbe();
  medium.Set(MediumFault::kNone, MediumFault::kSlow, 100);
  patient.PutMany(true);
  patient.TellHitsGoOn();
  patient.StopProbe();
  medium.Heal();
  TellValues(findings, "on disk: ", patient.GetCold(), true);
  patient.TellRecovery();
  patient.TellLives();
  return Result(findings);
}

Row HungWrites(const Scale&) {
  MediumSwitch medium;
  Findings findings;
  Patient patient(On(medium), findings);
  patient.StartProbe();
  medium.Set(MediumFault::kNone, MediumFault::kHang);
  patient.PutMany(true);
  std::this_thread::sleep_for(kHang);
  patient.PutMany(false);
  TellValues(findings, "on disk: ", patient.GetCold(), true);
  patient.TellSigns("a write takes longer", "cold_write_late");
  patient.TellHitsGoOn();
  medium.Heal();
  patient.StopProbe();
  patient.TellRecovery();
  patient.TellLives();
  return Result(findings);
}

/// Over ext4 on a loop device of its own.
Row OnLoopDisk(const std::function<void(Patient&, crash::LoopDisk&, Findings&)>& trial) {
  std::unique_ptr<crash::LoopDisk> disk;
  absl::Status made;
  std::string image;
  SubjectOptions options = Plain("2s");
  options.prepare = [&](const crash::DaemonDirectories& directories) {
    image = directories.arena + ".disk";
    disk = std::make_unique<crash::LoopDisk>(image, directories.data);
    made = disk->Make(2 * GiB);
  };
  options.release = [&] { disk.reset(); };
  Findings findings;
  {
    Patient patient(options, findings);
    if (made.ok()) trial(patient, *disk, findings);
  }
  std::filesystem::remove(image);
  std::filesystem::remove(image + ".log");
  if (made.ok()) return Result(findings);
  return Skipped("no loop device can be mounted here: " + std::string(made.message()));
}

/// The kernel's own: every call on the file system fails, until it is mounted anew.
Row DeadFileSystem(const Scale&) {
  return OnLoopDisk([](Patient& patient, crash::LoopDisk& disk, Findings& findings) {
    patient.StartProbe();
    TC_CHECK(disk.Cut().ok());
    TellValues(findings, "on disk: ", patient.GetCold(), false);
    patient.PutMany(false);
    patient.TellSigns("", "cold_tier_refused");
    patient.TellHitsGoOn();
    patient.StopProbe();
    patient.TellLives();
    patient.subject().Kill();
    findings.Tell(disk.Remount().ok(), "mounted anew and started");
    patient.subject().Start();
    TellBack(findings, patient);
  });
}

/// The kernel's own, too: writes wait in it, however they are made.
Row FrozenFileSystem(const Scale&) {
  return OnLoopDisk([](Patient& patient, crash::LoopDisk& disk, Findings& findings) {
    patient.StartProbe();
    TC_CHECK(disk.Freeze().ok());
    patient.PutMany(true);
    std::this_thread::sleep_for(kHang);
    patient.PutMany(false);
    Tally tally;
    const double ms = Milliseconds([&] { tally = patient.GetCold(); });
    TellValues(findings, "on disk: ", tally, false);
    findings.Tell(ms < kCallsMs, "asked for in " + std::to_string(int(ms)) + " ms");
    patient.TellSigns("a write takes longer", "cold_write_late");
    patient.TellHitsGoOn();
    findings.Tell(disk.Thaw().ok(), "thawed");
    patient.StopProbe();
    patient.TellRecovery();
    TellBack(findings, patient);
    patient.TellLives();
  });
}

// ---- a full disk

bool MountTmpfs(const std::string& directory, int mib, unsigned long flags) {
  const std::string size = "size=" + std::to_string(mib) + "m";
  return ::mount("tmpfs", directory.c_str(), "tmpfs", flags, size.c_str()) == 0;
}

Row FullDisk(const Scale&) {
  std::string data;
  bool mounted = false;
  SubjectOptions options = Plain();
  options.prepare = [&](const crash::DaemonDirectories& directories) {
    data = directories.data;
    mounted = MountTmpfs(data, 64, 0);
  };
  options.release = [&] {
    if (mounted) ::umount2(data.c_str(), MNT_DETACH);
  };
  Findings findings;
  Patient patient(options, findings);
  if (!mounted)
    return Skipped(std::string("no tmpfs can be mounted here: ") + std::strerror(errno));
  patient.StartProbe();
  patient.PutMany(false);
  TellValues(findings, "on disk: ", patient.GetCold(), false);
  patient.TellSigns("cold", "cold_tier_refused");
  patient.TellHitsGoOn();
  patient.StopProbe();
  findings.Tell(MountTmpfs(data, 2048, MS_REMOUNT), "made larger");
  patient.TellRecovery();
  patient.TellLives();
  return Result(findings);
}

// ---- damage that the next daemon finds

/// Starts on what was done to the store, and looks. What is missing must be told, and a store that
/// was set aside also by the next daemon.
void TellDamaged(Patient& patient, Findings& findings, const std::string& file) {
  const auto ended = patient.subject().TryStart();
  if (ended) {
    return findings.Tell(false,
                         file + ": the daemon does not start: " + patient.subject().LastLine());
  }
  const Tally tally = patient.GetCold();
  TellValues(findings, file + ": ", tally, false);
  if (tally.misses > 0) {
    constexpr const char* kEvents[] = {"cold_tier_set_aside", "cold_block_dropped",
                                       "cold_entries_dropped", "cold_segment_dropped",
                                       "cold_entries_lost"};
    const auto event = std::find_if(std::begin(kEvents), std::end(kEvents) - 1,
                                    [&](const char* name) { return patient.Logged(name); });
    patient.TellSigns("", *event);
    if (*event == kEvents[0]) {
      patient.subject().Shutdown();
      patient.subject().Start();
      patient.TellSigns("set aside", "tier_degraded");
    }
  }
  const Tally warm = patient.GetWarm();
  if (warm.misses + warm.wrong + warm.errors > 0) findings.Tell(false, "warm: " + warm.ToString());
  if (!patient.TakesWrites()) findings.Tell(false, "it takes no writes");
  patient.subject().Shutdown();
}

Row Damaged(const Scale& scale, StoreFile kind, bool removed) {
  Findings findings;
  const std::vector<double> places = removed ? std::vector<double>{0} : scale.Places();
  for (const double at : places) {
    Patient patient(Plain(), findings);
    const std::string& data = patient.subject().directories().data;
    if (kind == StoreFile::kEntries) {  // a start puts into tables what the log has
      patient.subject().Shutdown();
      patient.subject().Start();
    }
    kind == StoreFile::kLog ? patient.subject().Kill() : patient.subject().Shutdown();
    const std::string file = removed ? RemoveFile(data, kind) : FlipBit(data, kind, at);
    if (file.empty()) {
      findings.Tell(false, "there is no such file");
      break;
    }
    TellDamaged(patient, findings, file);
  }
  return Result(findings);
}

Row FlippedBlocks(const Scale&) {
  Findings findings;
  Patient patient(Plain(), findings);
  patient.subject().Shutdown();
  const int flips = patient.subject().FlipOnDisk();
  TellDamaged(patient, findings, std::to_string(flips) + " values");
  return Result(findings);
}

Row FlippedIndex(const Scale& scale) { return Damaged(scale, StoreFile::kSegment, false); }
Row FlippedEntries(const Scale& scale) { return Damaged(scale, StoreFile::kEntries, false); }
Row FlippedLog(const Scale& scale) { return Damaged(scale, StoreFile::kLog, false); }
Row FlippedManifest(const Scale& scale) { return Damaged(scale, StoreFile::kManifest, false); }
Row FlippedCurrent(const Scale& scale) { return Damaged(scale, StoreFile::kCurrent, false); }
Row NoSegment(const Scale& scale) { return Damaged(scale, StoreFile::kSegment, true); }
Row NoEntries(const Scale& scale) { return Damaged(scale, StoreFile::kEntries, true); }
Row NoLog(const Scale& scale) { return Damaged(scale, StoreFile::kLog, true); }
Row NoManifest(const Scale& scale) { return Damaged(scale, StoreFile::kManifest, true); }
Row NoCurrent(const Scale& scale) { return Damaged(scale, StoreFile::kCurrent, true); }

Row StoreGoneWhileOpen(const Scale&) {
  Findings findings;
  Patient patient(Plain(), findings);
  patient.StartProbe();
  std::filesystem::remove_all(patient.subject().directories().data + "/store");
  TellValues(findings, "on disk: ", patient.GetCold(), false);
  patient.PutMany(false);
  patient.TellSigns("the last write failed", "cold_tier_refused");
  patient.TellHitsGoOn();
  patient.StopProbe();
  patient.TellLives();
  patient.subject().Kill();
  patient.subject().Start();
  TellValues(findings, "started anew, on disk: ", patient.GetCold(), false);
  findings.Tell(patient.TakesWrites(), "takes writes");
  return Result(findings);
}

// ---- permission

Row NoPermission(const Scale&) {
  SubjectOptions options = Plain();
  if (::geteuid() == 0) {
    options.other_user = true;
    options.before = {"/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"};
    options.prepare = [](const crash::DaemonDirectories& directories) {
      for (const std::string& path : {directories.root, directories.arena, directories.data}) {
        TC_CHECK(::chown(path.c_str(), kNobody, kNobody) == 0);
      }
    };
  }
  Findings findings;
  Patient patient(options, findings);
  const std::string db = patient.subject().directories().data + "/store/db";
  patient.StartProbe();
  ::chmod(db.c_str(), 0);
  patient.PutMany(false);
  TellValues(findings, "on disk: ", patient.GetCold(), false);
  patient.TellSigns("", "cold_tier_refused");
  patient.TellHitsGoOn();
  patient.StopProbe();
  patient.TellLives();
  patient.subject().Kill();
  const auto ended = patient.subject().TryStart();
  findings.Tell(ended && WIFEXITED(*ended) && WEXITSTATUS(*ended) == 1 &&
                    patient.subject().LastLine().find("ermission") != std::string::npos,
                "started so it ends and says: " + patient.subject().LastLine().substr(0, 200));
  ::chmod(db.c_str(), 0700);
  if (!ended) patient.subject().Kill();
  patient.subject().Start();
  TellValues(findings, "given back, on disk: ", patient.GetCold(), true);
  return Result(findings);
}

// ---- the table

struct Trial {
  const char* fault;
  const char* done;
  const char* expected;
  Row (*run)(const Scale&);
};

constexpr Trial kTrials[] = {
    {"reads fail", "EIO of every read",
     "misses; after four the disk is left alone, then asked again", EioOfReads},
    {"reads are slow", "15 s each, `cold_read_deadline` 200 ms", "late is a miss; as above",
     SlowReads},
    {"reads hang", "none returns", "late is a miss; as above", HungReads},
    {"reads hang, and none is late", "none returns, `cold_read_deadline` 10m",
     "hits in memory go on", HungReadsWithoutDeadline},
    {"writes fail", "EIO of every write, sync, name",
     "puts go on, blocks that must leave memory are dropped; by itself back", EioOfWrites},
    {"writes fail, `ack`", "the same",
     "commits are answered ABORTED: in memory, not on disk; by itself back", EioOfWritesAck},
    {"the disk is full, `ack`", "ENOSPC of every write, sync, name", "the same", FullDiskAck},
    {"writes are slow", "100 ms each", "puts go on, or are refused; all is done, so nothing tells",
     SlowWrites},
    {"writes hang", "none returns", "after ten seconds nobody waits for them", HungWrites},
    {"the file system dies", "ext4 shut down (EXT4_IOC_SHUTDOWN)",
     "memory alone; what was synced is there when it is mounted anew", DeadFileSystem},
    {"the file system is frozen", "FIFREEZE of ext4, as for a snapshot",
     "after ten seconds nobody waits for writes; reads go on, or are misses; thawed, by itself "
     "back",
     FrozenFileSystem},
    {"the disk is full", "a tmpfs of 64 MiB (ENOSPC)", "puts go on; with room back by itself",
     FullDisk},
    {"a bit flipped: blocks", "one in each of all", "misses", FlippedBlocks},
    {"a bit flipped: a segment's index", "in its last 4 KiB", "misses at most", FlippedIndex},
    {"a bit flipped: entries (SST)", "in the file", "misses at most", FlippedEntries},
    {"a bit flipped: WAL", "in the file, after a kill -9", "misses at most", FlippedLog},
    {"a bit flipped: MANIFEST", "in the file", "misses at most, or all set aside", FlippedManifest},
    {"a bit flipped: CURRENT", "in the file", "misses at most, or all set aside", FlippedCurrent},
    {"a file gone: segment", "removed", "its blocks are misses", NoSegment},
    {"a file gone: entries (SST)", "removed", "misses at most, or all set aside", NoEntries},
    {"a file gone: WAL", "removed, after a kill -9", "misses at most, or all set aside", NoLog},
    {"a file gone: MANIFEST", "removed", "all set aside", NoManifest},
    {"a file gone: CURRENT", "removed", "all set aside", NoCurrent},
    {"the store gone", "removed under the running daemon",
     "what is open is read on, else misses; as writes that fail; anew with the next start",
     StoreGoneWhileOpen},
    {"no permission", "mode 0 of the store's directory, daemon not root",
     "as writes that fail; a start says what to mend", NoPermission},
};

/// Runs them, `jobs` at once, and prints each row in its turn. Trials mostly wait.
std::vector<Row> RunAll(const std::vector<Trial>& trials, const Scale& scale, int jobs) {
  std::vector<std::promise<Row>> rows(trials.size());
  std::atomic<size_t> next = 0;
  std::vector<std::thread> workers;
  for (int i = 0; i < jobs; ++i) {
    workers.emplace_back([&] {
      for (size_t at = next++; at < trials.size(); at = next++) {
        rows[at].set_value(trials[at].run(scale));
      }
    });
  }
  std::vector<Row> seen;
  for (size_t at = 0; at < trials.size(); ++at) {
    const Trial& trial = trials[at];
    const Row& row = seen.emplace_back(rows[at].get_future().get());
    std::printf("| %s | %s | %s | %s | %s |\n", trial.fault, trial.done, trial.expected,
                row.seen.c_str(),
                row.skipped ? "SKIPPED"
                : row.right ? "right"
                            : "**wrong**");
    std::fflush(stdout);
  }
  for (std::thread& worker : workers) worker.join();
  return seen;
}

int Main(int argc, char** argv) {
  CLI::App app("What a disk can do to the daemon, and what comes of it.");
  Scale scale;
  std::string only;
  int jobs = 1;
  app.add_flag("--short", scale.is_short, "Each damage at one place of its file");
  app.add_option("--only", only, "Only the rows whose fault has this text");
  app.add_option("--jobs", jobs, "Trials at once")->check(CLI::Range(1, 16));
  CLI11_PARSE(app, argc, argv);
  // Without them a mount says why it cannot be.
  crash::LoopDisk::OwnMounts().IgnoreError();
  std::vector<Trial> trials;
  std::copy_if(
      std::begin(kTrials), std::end(kTrials), std::back_inserter(trials),
      [&](const Trial& trial) { return std::string(trial.fault).find(only) != std::string::npos; });
  std::printf("| fault | what was done | expected | seen | verdict |\n|---|---|---|---|---|\n");
  const std::vector<Row> rows = RunAll(trials, scale, jobs);
  const auto wrong = std::count_if(rows.begin(), rows.end(), [](auto& row) { return !row.right; });
  const auto skipped =
      std::count_if(rows.begin(), rows.end(), [](auto& row) { return row.skipped; });
  std::printf("\n%s: %zu faults, %td not right, %td skipped\n", wrong == 0 ? "PASS" : "FAIL",
              rows.size(), wrong, skipped);
  return wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace thermocline::faults

int main(int argc, char** argv) { return thermocline::faults::Main(argc, argv); }
