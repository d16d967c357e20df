# frozen_string_literal: true

# The whole application for `sidekiq -r ./app.rb` and for plain Ruby; Rails-like loaders take this directory instead.
$LOAD_PATH.unshift(File.expand_path("lib/stand_in", __dir__))
require "sidekiq"
require "rails"
require "sidekiq/rails"
require_relative "config/environment"
