//! Finds the route of each registry, and what is wrong with the parents that the files name.

use std::sync::Arc;

use super::addresses::PrivateOnly;
use super::location::{Fault, Location};
use super::parent::{Parent, ParentChoice, Route};
use super::registry::Registry;

/// The default route, and that of each registry, with every fault.
pub(super) fn routes(
    parents: &[Arc<Parent>],
    default: &ParentChoice,
    registries: &[Registry],
    faults: &mut Vec<Fault>,
) -> (Route, Vec<Route>) {
    let index = match index(parents) {
        Ok(index) => index,
        Err(found) => {
            faults.extend(found);
            return (Route::Direct, Vec::new());
        }
    };
    let default = index.route(default, &Route::Direct);
    let default = default.unwrap_or_else(|fault| {
        faults.push(fault);
        Route::Direct
    });
    let mut routes = Vec::with_capacity(registries.len());
    for registry in registries {
        let route = match index.route(registry.parent(), &default) {
            Ok(route) => route,
            Err(fault) => {
                faults.push(fault);
                Route::Direct
            }
        };
        faults.extend(unkept_promise(registry, &route));
        routes.push(route);
    }
    (default, routes)
}

/// The fault of a registry that is private, while a parent chooses its address.
fn unkept_promise(registry: &Registry, route: &Route) -> Option<Fault> {
    let parent = route.parent().filter(|_| route.is_by_name())?;
    let key = match (registry.private_only(), registry.private_addresses().is_empty()) {
        (PrivateOnly::Yes, _) => "private-only",
        (PrivateOnly::No, false) => "private-addresses",
        (PrivateOnly::No, true) => return None,
    };
    let place = match registry.parent() {
        ParentChoice::Named(named) => named.place.clone(),
        ParentChoice::Inherited | ParentChoice::Direct => {
            Location { file: registry.file().clone(), line: 1 }
        }
    };
    Some(Fault {
        place,
        what: format!(
            "the registry has {key}, but its parent {:?} chooses the address (connect = \"name\")",
            parent.name
        ),
        remedy: "use a parent with connect = \"address\", or write parent = \"none\"".into(),
    })
}

/// The parents by name, with every fault that they have among one another.
fn index(parents: &[Arc<Parent>]) -> Result<Index<'_>, Vec<Fault>> {
    let mut faults = Vec::new();
    for (position, parent) in parents.iter().enumerate() {
        let mut before = parents.iter().take(position);
        if let Some(first) = before.find(|one| one.name == parent.name) {
            faults.push(Fault {
                place: parent.place.clone(),
                what: format!("the parent {:?} is already defined in {}", parent.name, first.place),
                remedy: "give each parent a name of its own".into(),
            });
        }
    }
    if faults.is_empty() { Ok(Index(parents)) } else { Err(faults) }
}

/// The parents of a policy, each with a name of its own.
#[derive(Clone, Copy)]
struct Index<'a>(&'a [Arc<Parent>]);

impl Index<'_> {
    /// The route that a choice means.
    fn route(&self, choice: &ParentChoice, inherited: &Route) -> Result<Route, Fault> {
        let named = match choice {
            ParentChoice::Inherited => return Ok(inherited.clone()),
            ParentChoice::Direct => return Ok(Route::Direct),
            ParentChoice::Named(named) => named,
        };
        let found = self.0.iter().find(|parent| *parent.name == *named.value);
        found.cloned().map(Route::Parent).ok_or_else(|| {
            let known: Vec<&str> = self.0.iter().map(|parent| &*parent.name).collect();
            let remedy = match known.as_slice() {
                [] => format!("add a [[parent]] with name = {:?}", named.value),
                known => format!("known parents are {}; \"none\" is direct", known.join(", ")),
            };
            Fault {
                place: named.place.clone(),
                what: format!("there is no [[parent]] with the name {:?}", named.value),
                remedy,
            }
        })
    }
}
