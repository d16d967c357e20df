package world

import "time"

// What happens, as jobs: spec/mastodon.md §4.1 for what local people do, §4.2 for what is received.

// Shares of the kinds of what is received (spec/mastodon.md §4.3, middle of its ranges).
const (
	shareCreate   = 0.30
	shareAnnounce = 0.25
	shareDelete   = 0.20
	shareLike     = 0.13
	shareFollow   = 0.02
	inboundMedia  = 0.30 // of Creates, have pictures that are fetched and scaled within the job
	localTargets  = 0.15 // of likes and follows by local people go to local people
	videoShare    = 0.08 // of posts with media have video or audio, which is transcoded in a job; pictures are scaled by the web process
)

func (w *World) job(d *Dice, class ClassID) Job {
	return Job{ID: d.Uint64(), Class: class, Dest: -1, Author: -1}
}

func (w *World) plain(d *Dice, class ClassID, emit func(Push)) { emit(Push{Job: w.job(d, class)}) }

func (w *World) to(d *Dice, class ClassID, dest int32) Job {
	job := w.job(d, class)
	job.Dest = dest
	return job
}

// lively draws an instance that is up: one that is not sends nothing, and nobody there is followed anew.
func (w *World) lively(d *Dice, at time.Duration) int32 {
	dest := w.in.pick(d)
	for range 8 {
		if w.Temper(dest, at).Healthy() {
			break
		}
		dest = w.in.pick(d)
	}
	return dest
}

func (w *World) post(d *Dice, emit func(Push)) { w.postBy(d, w.author(d), 0, emit) }

// postBy is a public post. followers, if not 0, is how many remote followers its author has, whatever the rank says.
func (w *World) postBy(d *Dice, rank, followers int32, emit func(Push)) {
	t := &w.cfg.Traffic
	w.plain(d, LinkCrawl, emit)
	w.plain(d, TriggerWebhook, emit)
	local := w.job(d, Distribution)
	local.Author, local.Fan = rank, w.homeFans(rank)
	if followers > 0 {
		local.Fan = w.fansOf(float64(followers))
	}
	emit(Push{Job: local})
	far := w.job(d, FederatedDistribution)
	far.Author, far.Fan = rank, followers
	emit(Push{Job: far})
	if d.Chance(t.Replies) && d.Chance(0.3) {
		w.plain(d, LocalNotification, emit)
	}
	if d.Chance(t.Media) && d.Chance(videoShare) {
		w.plain(d, PostProcessMedia, emit)
	}
}

func (w *World) boost(d *Dice, emit func(Push)) {
	rank := w.author(d)
	local := w.job(d, Distribution)
	local.Author, local.Fan, local.What = rank, w.homeFans(rank), Boosted
	emit(Push{Job: local})
	far := w.job(d, FederatedDistribution)
	far.Author = rank
	emit(Push{Job: far})
}

func (w *World) like(d *Dice, emit func(Push)) {
	if d.Chance(localTargets) {
		w.plain(d, LocalNotification, emit)
		return
	}
	emit(Push{Job: w.to(d, Delivery, w.in.pick(d))})
}

func (w *World) follow(d *Dice, emit func(Push)) {
	if d.Chance(localTargets) {
		w.plain(d, LocalNotification, emit)
		w.plain(d, Merge, emit)
		return
	}
	job := w.to(d, Delivery, w.in.pick(d))
	job.What = NewPerson // its Accept comes back
	emit(Push{Job: job})
}

func (w *World) remove(d *Dice, emit func(Push)) {
	job := w.job(d, Removal)
	job.Author = w.author(d)
	emit(Push{Job: job})
}

func (w *World) edit(d *Dice, emit func(Push)) {
	job := w.job(d, UpdateDistribution)
	job.Author = w.author(d)
	emit(Push{Job: job, After: 5 * time.Second, Scheduled: true})
}

// inbound is one activity that arrives from an instance.
func (w *World) inbound(d *Dice, emit func(Push)) {
	lot := d.Float64()
	class := ProcessOther
	switch {
	case lot < shareCreate:
		class = ProcessCreate
		if d.Chance(inboundMedia) {
			class = ProcessMedia
		}
	case lot < shareCreate+shareAnnounce:
		class = ProcessAnnounce
	case lot < shareCreate+shareAnnounce+shareDelete:
		class = ProcessDelete
	case lot < shareCreate+shareAnnounce+shareDelete+shareLike:
		class = ProcessLike
	case lot < shareCreate+shareAnnounce+shareDelete+shareLike+shareFollow:
		class = ProcessFollow
	}
	emit(Push{Job: w.to(d, class, w.lively(d, 0))})
}

// followed is a follow of a local person from outside.
func (w *World) followed(d *Dice, emit func(Push)) {
	emit(Push{Job: w.to(d, ProcessFollow, w.lively(d, 0))})
}

// relayed is a post that a relay passes on: nobody here follows its author.
func (w *World) relayed(d *Dice, emit func(Push)) {
	class := ProcessCreate
	if d.Chance(inboundMedia) {
		class = ProcessMedia
	}
	job := w.to(d, class, w.lively(d, 0))
	job.What = FromRelay
	emit(Push{Job: job})
}

// reaction is a boost, a like or an answer to one local post: half of reactions are likes, four in ten boosts.
func (w *World) reaction(d *Dice, emit func(Push)) {
	lot := d.Float64()
	dest := w.lively(d, 0)
	switch {
	case lot < 0.5:
		emit(Push{Job: w.to(d, ProcessLike, dest)})
	case lot < 0.9:
		job := w.to(d, ProcessAnnounce, dest)
		job.What = Reaction
		emit(Push{Job: job})
	default:
		w.answerFrom(d, dest, emit)
	}
}

func (w *World) answer(d *Dice, emit func(Push)) { w.answerFrom(d, w.lively(d, 0), emit) }

// answerFrom is a signed public answer to a thread by the most followed account here, which is forwarded to its followers.
func (w *World) answerFrom(d *Dice, dest int32, emit func(Push)) {
	job := w.to(d, ProcessCreate, dest)
	job.What, job.Author = ToThread, 0
	emit(Push{Job: job})
}

// signUp is a new person: mails, a timeline, follows within the hour, a first post and a few reactions to it.
func (w *World) signUp(d *Dice, emit func(Push)) {
	w.plain(d, Mail, emit)
	emit(Push{Job: w.job(d, Mail), After: time.Hour, Scheduled: true})
	emit(Push{Job: w.job(d, BootstrapTimeline), After: time.Minute})
	hour := func() time.Duration { return time.Duration((0.05 + d.Exp()*0.3) * float64(time.Hour)) }
	for range d.Times(w.cfg.Traffic.SignUpFollows) {
		at := hour()
		dest := w.lively(d, 0)
		if d.Chance(0.5) {
			emit(Push{Job: w.to(d, ResolveAccount, dest), After: at})
		}
		job := w.to(d, Delivery, dest)
		job.What = NewPerson
		emit(Push{Job: job, After: at + 10*time.Second})
	}
	last := int32(w.cfg.Server.Active - 1)
	profile := w.job(d, UpdateDistribution)
	profile.Author = last
	emit(Push{Job: profile, After: hour()})
	first := hour()
	w.postBy(d, last, 0, func(p Push) {
		p.After += first
		emit(p)
	})
	for range 1 + d.IntN(6) { // people greet
		w.reaction(d, func(p Push) {
			p.After += first + hour()
			emit(p)
		})
	}
}

// Spawn calls emit with every job that job leaves behind when it ends well at now. seen is scratch space.
func (w *World) Spawn(job *Job, now time.Duration, seen *Seen, emit func(Push)) {
	d := NewDice(job.ID, 3)
	push := func(p Push) {
		p.Job.Created = now + p.After
		p.Job.Enqueued = p.Job.Created
		emit(p)
	}
	chance := func(p float64, class ClassID) {
		if d.Chance(p) {
			push(Push{Job: w.to(&d, class, job.Dest)})
		}
	}
	everywhere := func(class ClassID, followers int) {
		each := func(dest int32) { push(Push{Job: w.to(&d, class, dest)}) }
		if followers > 0 {
			w.reach(NewDice(job.ID, 4), followers, seen, each)
			return
		}
		w.Reach(job.Author, seen, each)
	}
	minutes := func(from, to float64) time.Duration {
		return time.Duration((from + (to-from)*d.Float64()) * float64(time.Minute))
	}
	switch job.Class {
	case Distribution:
		for range job.Fan {
			push(Push{Job: w.job(&d, FeedInsert)})
		}
	case FeedInsert:
		chance(w.cfg.Server.Streaming, PushUpdate)
	case FederatedDistribution:
		everywhere(Delivery, int(job.Fan))
	case RawDistribution, UpdateDistribution, Removal:
		everywhere(Delivery, 0)
	case AccountDeletion:
		for dest := range w.in.weights {
			push(Push{Job: w.to(&d, LowDelivery, int32(dest))})
		}
	case Delivery:
		if job.What == NewPerson { // the Accept arrives a moment later
			accept := w.to(&d, ProcessOther, job.Dest)
			accept.What = NewPerson
			push(Push{Job: accept, After: seconds(0.3 + d.Exp())})
		}
	case ProcessCreate, ProcessMedia:
		w.created(job, &d, push, minutes)
	case ProcessAnnounce:
		if job.What == Reaction {
			chance(1, LocalNotification)
			break
		}
		if d.Chance(0.7) {
			local := w.job(&d, Distribution)
			local.Fan, local.What = w.localFans(&d), Boosted
			push(Push{Job: local})
		}
		chance(0.05, LocalNotification)
	case ProcessLike:
		chance(1, LocalNotification)
	case ProcessFollow:
		chance(1, LocalNotification)
		chance(1, Delivery) // the Accept
	case ProcessDelete:
		if d.Chance(0.001) { // of something that was answered or boosted here: forwarded
			job.Author = w.author(&d)
			everywhere(LowDelivery, 0)
		}
	case ProcessOther:
		if job.What == NewPerson {
			chance(1, Merge)
			chance(0.3, RemoteAccountRefresh)
			break
		}
		chance(0.1, RedownloadMedia)
	case FetchReplies:
		for range d.IntN(6) {
			push(Push{Job: w.to(&d, FetchReply, w.in.pick(&d))})
		}
	case LocalNotification:
		chance(0.4, WebPush)
		if d.Chance(0.03) {
			push(Push{Job: w.job(&d, Mail), After: 2 * time.Minute, Scheduled: true})
		}
	default:
	}
}

// created is what a received post leaves behind.
func (w *World) created(job *Job, d *Dice, push func(Push), minutes func(from, to float64) time.Duration) {
	if job.What == Plain && d.Chance(0.15) { // not relevant, or known already
		return
	}
	local := w.job(d, Distribution)
	switch job.What {
	case FromRelay:
	case ToThread:
		local.Fan = 1 + int32(d.IntN(4))
		push(Push{Job: w.job(d, LocalNotification)})
		forward := w.job(d, RawDistribution)
		forward.Author = job.Author
		push(Push{Job: forward})
	default:
		local.Fan = w.localFans(d)
		if d.Chance(0.12) {
			push(Push{Job: w.job(d, LocalNotification)})
		}
	}
	push(Push{Job: local})
	push(Push{Job: w.to(d, LinkCrawl, job.Dest), After: minutes(0, 1), Scheduled: true})
	if d.Chance(0.18) {
		push(Push{Job: w.to(d, ThreadResolve, w.in.pick(d))})
	}
	if d.Chance(0.06) {
		push(Push{Job: w.to(d, FetchReplies, job.Dest)})
	}
	if d.Chance(0.04) {
		push(Push{Job: w.to(d, MentionResolve, w.in.pick(d)), After: minutes(0.5, 10), Scheduled: true})
	}
	if d.Chance(0.02) {
		push(Push{Job: w.to(d, RemoteAccountRefresh, job.Dest), After: minutes(0, 360), Scheduled: true})
	}
}
