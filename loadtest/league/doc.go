// Package league runs all scenarios under both engines, simulated and for real, and holds simulations against real runs of the same; it writes what
// came of it as pages for docs/. Every run's figures are kept in a directory, a file each, so that a long series can be made in parts, and a page
// is written from what is kept. It starts no goroutine but those of the packages it calls.
package league
