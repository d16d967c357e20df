// Package placement is how jobs of Ruby are given to Ruby processes: which waiting job goes where, how many more are wanted, how many processes,
// and what a class's run says of how much it computes. Plain data in, decisions out: the worker's supervisor and the simulator of load tests
// decide by the same code.
package placement
