// Package suite is the benchmark: what runs, against what, and what is promised of it.
//
// A suite goes in rounds. In every round each contender gets servers of its own, which nobody used before, and runs in processes of its own,
// one contender after the other (A B C, A B C …), so that a machine that grows slower or quicker during the run treats all alike. What is
// compared is medians over the rounds of one run; ratios are never made of figures of different runs.
//
// The clock of a contender starts when the first jobs are gone (2 %) and stops when the last outcome is in Redis or at the receivers:
// the start of its process is not counted, neither its time nor its CPU.
package suite
