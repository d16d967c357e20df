# frozen_string_literal: true

require_relative "application"

Rails.application.initialize! do
  Dir[Rails.root.join("config/initializers/*.rb").to_s].sort.each { |file| require file }
  # Eagerly, as in production: everything is loaded before the first job, and before a preloading parent forks.
  ActiveSupport.eager_load! if ActiveSupport.respond_to?(:eager_load!)
  ActiveRecord.eager_load!
  ActiveJob.eager_load!
  %w[models workers].each { |kind| Dir[Rails.root.join("app", kind, "**/*.rb").to_s].sort.each { |file| require file } }
  # A boot that asks the database, as initializers of applications may.
  [:writing, *(:reading if Database.replica?)].each { |role| ActiveRecord::Base.connected_to(role: role) { Account.count } } if ENV["RUBYAPP_BOOT"] == "connect"
end

# From 8.0 on, Sidekiq asks for the gem railties before it looks for Rails, and our stand-in is no gem.
unless defined?(Sidekiq::Rails)
  Sidekiq.configure_server { |config| config[:reloader] = ->(&block) { Rails.application.reloader.wrap(&block) } }
end
