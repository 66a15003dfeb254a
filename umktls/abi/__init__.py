"""The two kernels' numbers and struct layouts, under the kernels' own names."""
