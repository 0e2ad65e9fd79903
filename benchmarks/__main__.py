"""`python -m benchmarks`: all of them, one after the other. `intelligibility` needs models and runs by its own name."""

from benchmarks import journal, overhead, start, streams

for benchmark in (start, overhead, journal, streams):
    print(f"{benchmark.__name__.partition('.')[2]}:")
    benchmark.main()
