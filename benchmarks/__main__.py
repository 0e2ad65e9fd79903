"""`python -m benchmarks`: all of them, one after the other."""

from benchmarks import overhead, start

for benchmark in (start, overhead):
    print(f"{benchmark.__name__.partition('.')[2]}:")
    benchmark.main()
