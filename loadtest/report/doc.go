// Package report writes what simulated runs came to: one HTML file that needs nothing else, one JSON object, plots as SVG and PNG, and the text
// for a terminal. The same runs give the same bytes: nothing of the machine or the time of day is in them but what Environment says.
//
// In: a scenario and the results of one or two engines. It starts no goroutines.
package report
