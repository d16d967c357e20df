package simulate

func newQueueville(s *sim) engine { return newSidekiq(s) }

type workerModel struct{}
