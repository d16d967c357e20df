package ruby

import "errors"

// Command is how a Ruby that has the application's gems is started.
type Command struct {
	Ruby        []string // words before the Ruby file and its arguments: {"/usr/bin/bundle", "exec", "ruby"}
	Dir         string   // working directory: the application's
	Env         []string // complete environment, KEY=value
	Require     string   // what Sidekiq's -r gets: the directory of a Rails application, or a Ruby file. Default "."
	ConfigFile  string   // Sidekiq's -C; "" leaves it to Sidekiq
	Environment string   // Sidekiq's -e; "" leaves it to RAILS_ENV
}

func (c *Command) check() []error {
	var problems []error
	if len(c.Ruby) == 0 || c.Ruby[0] == "" {
		problems = append(problems, errors.New("no command that starts Ruby"))
	}
	if c.Dir == "" {
		problems = append(problems, errors.New("no directory of the Ruby application"))
	}
	if c.Require == "" {
		c.Require = "."
	}
	return problems
}
