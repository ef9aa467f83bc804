"""What this project does on a CUDA card: checks against float64 and the CPU, then speed. `python -m benchmarks.gpu`."""
