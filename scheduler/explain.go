package scheduler

// decision says what the lane may do and what binds it.
func (l *laneControl) decision(m *moment, v *Lane, was int) Decision {
	d := Decision{Lane: l.cfg.Name, Limit: l.slots(), Was: was, Bound: l.bound, Why: l.why, Rate: l.rate, Host: m.host, View: *v, Gain: Unknown}
	if d.Why == "" && d.Changed() {
		if d.Why = "others leave more of the processors"; d.Limit < was {
			d.Why = "less for " + string(ByOthers)
		}
	}
	perSlot := Unknown + 0.0
	if l.elastic >= 0 && l.limit > 0 {
		perSlot = l.rate * l.elastic / l.limit
	}
	switch l.bound {
	case ByDemand:
		d.Value, d.Gain = v.Running, 0
	case ByCPU, ByOthers, ByLanes, ByPressure, ByQuota:
		d.Unit = "core"
		d.Value = m.host.Busy
		if m.host.Busy >= 0 {
			d.Value = min(1, m.host.Busy/m.host.Cores)
		}
		if l.bound == ByQuota {
			d.Value = m.host.Throttled
		}
		if l.bound == ByPressure {
			d.Value = m.host.Pressure
		}
		d.Gain = per(l.rate, v.CPU)
	case ByMemory:
		d.Unit, d.Value = "GiB", m.host.MemoryAvailable
	case ByGain:
		d.Unit, d.Value, d.Gain = "slot", l.limit, perSlot
	case ByDB:
		d.Unit, d.Value, d.Gain = "connection", l.limit, l.likeOthers(v)
	case ByProcesses:
		d.Unit, d.Value, d.Gain = "process", v.Held.Slots, per(l.rate, v.Held.Slots)
	case ByBoot:
		d.Value = v.Held.Slots
	case ByThreads:
		d.Unit, d.Value, d.Gain = "thread", v.Held.Slots, l.likeOthers(v)
	default:
		d.Unit, d.Value, d.Gain = "slot", l.limit, l.likeOthers(v)
	}
	return d
}

// likeOthers is what one more slot would do if it did what the others do.
func (l *laneControl) likeOthers(v *Lane) float64 {
	if l.elastic >= 0 {
		return per(l.rate*l.elastic, v.Running)
	}
	return per(l.rate, v.Running)
}

// per is a quotient, Unknown where there is next to nothing to divide by.
func per(jobs, of float64) float64 {
	if of < 1e-6 {
		return Unknown
	}
	return jobs / of
}
