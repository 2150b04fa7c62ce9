// A race on purpose: that ThreadSanitizer reports it shows that the `tsan` preset, with its
// environment and suppressions, would report others.
#include <cstdio>
#include <thread>

int main() {
  int count = 0;
  const auto add = [&] {
    for (int i = 0; i < 1000; ++i) ++count;
  };
  std::thread one(add);
  std::thread two(add);
  one.join();
  two.join();
  std::printf("%d\n", count);
  return 0;
}
